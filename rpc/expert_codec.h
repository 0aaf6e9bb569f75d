// core types <-> octet.v1 messages of the expert wire (docs/wire.md), and the checks that a message
// from a peer must pass before anything in it is used. Pure; thread-safe.
#ifndef OCTET_RPC_EXPERT_CODEC_H_
#define OCTET_RPC_EXPERT_CODEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/dispatch_key.h"
#include "core/wire_format.h"
#include "octet/v1/expert.pb.h"

namespace octet {

void DispatchKeyToProto(const DispatchKey& key, octet::v1::DispatchKey* proto);
DispatchKey DispatchKeyFromProto(const octet::v1::DispatchKey& proto);

// Refusals on the wire and as a status:
//   NOT_HELD NOT_FOUND · WRONG_DIGEST FAILED_PRECONDITION · MALFORMED INVALID_ARGUMENT ·
//   OVERLOADED RESOURCE_EXHAUSTED · DRAINING UNAVAILABLE · DATA_LOSS DATA_LOSS ·
//   DAMAGED DamagedError.
// A status of any other code travels as DATA_LOSS; a value unknown to this version reads as
// INVALID_ARGUMENT.
octet::v1::DispatchError DispatchErrorFromStatus(const absl::Status& status);
absl::Status StatusFromDispatchError(octet::v1::DispatchError error, const std::string& message);

// What a worker knows of its model.
struct DispatchShape {
  std::vector<WireFormat> formats;  // [layer]
  uint32_t experts = 0;
};

// A dispatch in whatever encoding, as views of memory that only this process writes, `rows` aside:
// whoever shares them with the peer computes with what is there then.
struct DispatchView {
  struct Group {
    uint32_t expert = 0;
    absl::Span<const uint32_t> rows;
  };
  absl::string_view compute_digest;
  bool has_key = false;
  uint32_t layer = 0;
  bool prefill = false;
  uint32_t row_count = 0;
  absl::Span<char> rows;
  absl::Span<const Group> groups;
  uint32_t checksum = 0;
  bool checked = true;  // false: `rows` have no checksum, and may lie on a device
};
// `groups` gets the memory of the view's groups.
DispatchView ViewOf(octet::v1::Dispatch& dispatch, std::vector<DispatchView::Group>* groups);

// INVALID_ARGUMENT, naming the field, unless: a key is present and its layer exists; 1 to
// kDispatchRowsMax rows; `rows` has exactly row_count times the row bytes of the layer; experts are
// strictly ascending and exist, each with at least one row, row indices strictly ascending and in
// range, and every row used; the checksum fits, where there is one.
absl::Status ValidateDispatch(const DispatchView& dispatch, const DispatchShape& shape);

// DATA_LOSS unless the reply has exactly `rows` rows of `format` and a checksum that fits. The
// reply's own refusal comes first, as its status.
absl::Status ValidateReply(const octet::v1::DispatchReply& reply, const WireFormat& format,
                           size_t rows);

// The seal of a message covers every field but the rows, which have a checksum of their own: what
// is asked for, of whom, and for which attempt. A message whose seal does not fit can't be answered
// or counted as an answer, not even refused by its key; it ends the stream it came on.
void Seal(octet::v1::Dispatch* dispatch);
void Seal(octet::v1::DispatchReply* reply);
bool SealFits(const octet::v1::Dispatch& dispatch);
bool SealFits(const octet::v1::DispatchReply& reply);

// Reply rows a dispatch asks for: the sum over its experts.
size_t ReplyRows(const octet::v1::Dispatch& dispatch);

}  // namespace octet

#endif  // OCTET_RPC_EXPERT_CODEC_H_
