// Encoding of token rows between router and expert worker. Part of the arithmetic contract: every
// transport applies it, the in-process one included, so that results do not depend on where an
// expert runs.
#ifndef OCTET_CORE_WIRE_FORMAT_H_
#define OCTET_CORE_WIRE_FORMAT_H_

#include <cstddef>
#include <cstdint>

namespace octet {

enum class ReplyDType : uint8_t { kF32, kBF16 };

// Follows from the format of the layer's gate and up matrices; equal for all experts of a layer.
struct WireFormat {
  uint32_t hidden = 0;
  // 0: rows are f32. Else rows are int8 with one f32 scale per `activation_group`, hidden padded
  // with zeros.
  uint32_t activation_group = 0;
  ReplyDType reply = ReplyDType::kF32;

  bool is_integer() const { return activation_group != 0; }
  size_t padded_hidden() const {
    return is_integer() ? (hidden + activation_group - 1) / activation_group * activation_group
                        : hidden;
  }
  size_t groups() const { return is_integer() ? padded_hidden() / activation_group : 0; }
  size_t RowBytes() const { return is_integer() ? padded_hidden() + groups() * 4 : hidden * 4; }
  size_t ReplyRowBytes() const { return hidden * (reply == ReplyDType::kF32 ? 4u : 2u); }
  friend bool operator==(const WireFormat&, const WireFormat&) = default;
};

}  // namespace octet

#endif  // OCTET_CORE_WIRE_FORMAT_H_
