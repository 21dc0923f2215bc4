from triows._kernels._registry import kernel


@kernel("")
def mask(octets, start, stop, key, phase):
    for i in range(start, stop):
        octets[i] ^= (key >> (8 * ((phase + i - start) & 3))) & 255
    return (phase + stop - start) & 3
