// Functions of the table that fused.cu, choose_plan.cu and gate_product.cu share out. Host side,
// internal to kernels/cuda/; meaning as in cuda_api.h.
#ifndef OCTET_KERNELS_CUDA_FUSED_KERNELS_H_
#define OCTET_KERNELS_CUDA_FUSED_KERNELS_H_

#include "kernels/cuda/cuda_api.h"

namespace octet::cuda {

// gate_product.cu. Whether LaunchGateProduct computes this shape; MatMulFloat does any.
bool GateProductFits(const GateProduct& call);
int LaunchGateProduct(Stream stream, const GateProduct& call);
int MatMulGate(Stream stream, const GateProduct& call);

// choose_plan.cu
int ChooseAndPlan(Stream stream, const ChoosePlan& call);

}  // namespace octet::cuda

#endif  // OCTET_KERNELS_CUDA_FUSED_KERNELS_H_
