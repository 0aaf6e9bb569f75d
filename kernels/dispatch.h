// Which kernels serve a context. Internal to kernels/.
#ifndef OCTET_KERNELS_DISPATCH_H_
#define OCTET_KERNELS_DISPATCH_H_

#include "kernels/exec_context.h"
#include "kernels/x86/kernel_table.h"

namespace octet {

// Null at kScalar and on other architectures: kernels/reference serves those. A level that this CPU
// lacks is a CHECK failure.
const KernelTable* FastKernels(CpuLevel level);

}  // namespace octet

#endif  // OCTET_KERNELS_DISPATCH_H_
