import Glibc

func pause(milliseconds: Int) { usleep(UInt32(milliseconds) * 1_000) }
