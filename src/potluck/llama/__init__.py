"""The llama.cpp library: where it lies, how it is laid out, and its functions, through ctypes."""
