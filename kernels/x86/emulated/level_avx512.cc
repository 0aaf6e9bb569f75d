// The kernels of the AVX-512 level on a CPU that has AVX2, for kernels_emulated_test alone: the
// same sources as in level_avx512.cc, over other intrinsics.
#include "kernels/x86/emulated/avx512_intrinsics.h"
// The names must be there before the kernels.
#include "kernels/x86/level_avx512.cc"
