"""llama.cpp for Potluck: `lib` holds its libraries, one with kernels for each kind of CPU, and `_tap` Potluck's own."""
