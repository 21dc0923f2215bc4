from triows._kernels._registry import kernel


# state: remaining | lo<<8 | hi<<16
@kernel("")
def validate_utf8(o, start, stop, state):
    rem = state & 255
    lo = (state >> 8) & 255
    hi = (state >> 16) & 255
    for i in range(start, stop):
        b = int(o[i])
        if rem:
            if b < lo or b > hi:
                return -13
            rem -= 1
            lo = 0x80
            hi = 0xBF
        elif b < 0x80:
            pass
        elif b < 0xC2:
            return -13
        elif b < 0xE0:
            rem = 1
            lo = 0x80
            hi = 0xBF
        elif b < 0xF0:
            rem = 2
            lo = 0xA0 if b == 0xE0 else 0x80
            hi = 0x9F if b == 0xED else 0xBF
        elif b < 0xF5:
            rem = 3
            lo = 0x90 if b == 0xF0 else 0x80
            hi = 0x8F if b == 0xF4 else 0xBF
        else:
            return -13
    return 0 if rem == 0 else rem | lo << 8 | hi << 16
