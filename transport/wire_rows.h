// Token rows in wire format (core/wire_format.h), as views.
#ifndef OCTET_TRANSPORT_WIRE_ROWS_H_
#define OCTET_TRANSPORT_WIRE_ROWS_H_

#include <cstddef>

#include "core/tensor_view.h"
#include "core/wire_format.h"
#include "kernels/kernels.h"
#include "kernels/packed_weights.h"

namespace octet {

// One step's rows of one layer, not owned. Exactly one of `f32` and `q` is set, as `format` says.
struct WireRows {
  WireFormat format;
  // Where the rows lie: on a GPU only where all links take them from there (NcclLink).
  Device device;
  size_t rows = 0;
  ConstTensorF32 f32;
  QuantizedRows q;
};

// `rows` rows at `bytes`, encoded as `format` says, as an expert's input.
inline ExpertInput InputOf(char* bytes, size_t rows, const WireFormat& format) {
  ExpertInput input;
  if (format.is_integer()) {
    input.q.rows = rows;
    input.q.padded_k = format.padded_hidden();
    input.q.group = format.activation_group;
    input.q.q = reinterpret_cast<int8_t*>(bytes);
    input.q.scales = reinterpret_cast<float*>(bytes + rows * format.padded_hidden());
  } else {
    input.f32 = ConstTensorF32(reinterpret_cast<const float*>(bytes), rows, format.hidden);
  }
  return input;
}

// Rounds reply values that stay f32 to what the wire's reply type can tell.
inline void RoundReply(const WireFormat& format, float* values, size_t count) {
  if (format.reply == ReplyDType::kF32) return;
  for (size_t i = 0; i < count; ++i) values[i] = BF16ToF32(F32ToBF16(values[i]));
}

}  // namespace octet

#endif  // OCTET_TRANSPORT_WIRE_ROWS_H_
