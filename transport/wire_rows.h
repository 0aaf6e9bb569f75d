// Token rows in wire format (core/wire_format.h), as views.
#ifndef OCTET_TRANSPORT_WIRE_ROWS_H_
#define OCTET_TRANSPORT_WIRE_ROWS_H_

#include <cstddef>

#include "core/tensor_view.h"
#include "core/wire_format.h"
#include "kernels/kernels.h"

namespace octet {

// One step's rows of one layer, not owned. Exactly one of `f32` and `q` is set, as `format` says.
struct WireRows {
  WireFormat format;
  size_t rows = 0;
  ConstTensorF32 f32;
  QuantizedRows q;
};

}  // namespace octet

#endif  // OCTET_TRANSPORT_WIRE_ROWS_H_
