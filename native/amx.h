/* GCC before 13 declares only 8 of the 64 input bytes of _tile_loadconfig, so that it drops the stores into llama.cpp's
 * tile configuration as dead, and the first batch of two tokens crashes on CPUs with AMX. Included into every file of
 * llama.cpp's build (see the Makefile); other compilers and CPUs see nothing of it. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(p) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(p)))
#endif
