// Functions of the table that rows.cu, choose.cu and float_product.cu share out. Host side,
// internal to kernels/cuda/; meaning as in cuda_api.h.
#ifndef OCTET_KERNELS_CUDA_ROW_KERNELS_H_
#define OCTET_KERNELS_CUDA_ROW_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda_api.h"

namespace octet::cuda {

// rows.cu
int QuantizeRows(Stream stream, const float* x, size_t rows, size_t k, size_t stride,
                 size_t padded_k, size_t group, int8_t* q, float* scales);

// choose.cu. At most 512 experts.
int ChooseLinear(Stream stream, const float* logits, size_t rows, size_t experts, size_t k,
                 uint32_t* out_experts, float* out_weights);
int ChooseAttention(Stream stream, const float* q, const float* k, const float* v, size_t rows,
                    size_t experts, size_t top_k, uint32_t* out_experts, float* out_weights);
int PlanRows(Stream stream, const uint32_t* chosen, size_t rows, size_t k, size_t experts,
             uint32_t* offsets, uint32_t* sorted_rows, uint32_t* slots);

// float_product.cu
int MatMulFloat(Stream stream, const Matrix& w, const float* x, size_t rows, size_t x_stride,
                float* y, size_t y_stride);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_ROW_KERNELS_H_
