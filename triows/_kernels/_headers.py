from triows._kernels._registry import kernel

FIN, RSV, OPCODE, MASKED, KEY, HEADER_SIZE, PAYLOAD_SIZE = range(7)
FIELD_COUNT = 7


@kernel("")
def read_header(o, start, stop, f):
    n = stop - start
    b0 = int(o[start])
    op = b0 & 15
    if op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        return -1
    if op >= 8 and b0 < 128:
        return -3
    f[0] = b0 >> 7
    f[1] = (b0 >> 4) & 7
    f[2] = op
    if n < 2:
        return 2
    b1 = int(o[start + 1])
    l = b1 & 127
    if op >= 8 and l > 125:
        return -2
    need = 2 + (2 if l == 126 else 8 if l == 127 else 0) + (4 if b1 >= 128 else 0)
    if n < need:
        return need
    p = start + 2
    if l == 126:
        l = (int(o[p]) << 8) | int(o[p + 1])
        p += 2
        if l < 126:
            return -4
    elif l == 127:
        if o[p] >= 128:
            return -5
        l = 0
        for i in range(8):
            l = (l << 8) | int(o[p + i])
        p += 8
        if l < 65536:
            return -4
    f[3] = b1 >> 7
    f[4] = -1
    if b1 >= 128:
        f[4] = int(o[p]) | int(o[p + 1]) << 8 | int(o[p + 2]) << 16 | int(o[p + 3]) << 24
    f[5] = need
    f[6] = l
    return 0


@kernel("")
def write_header(o, start, first, size, key):
    o[start] = first
    m = 128 if key >= 0 else 0
    p = start + 2
    if size < 126:
        o[start + 1] = m | size
    elif size < 65536:
        o[start + 1] = m | 126
        o[p] = size >> 8
        o[p + 1] = size & 255
        p += 2
    else:
        o[start + 1] = m | 127
        for i in range(8):
            o[p + i] = (size >> (56 - 8 * i)) & 255
        p += 8
    if key >= 0:
        for i in range(4):
            o[p + i] = (key >> (8 * i)) & 255
        p += 4
    return p - start
