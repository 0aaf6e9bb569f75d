#include "rpc/expert_codec.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/damaged.h"
#include "core/limits.h"
#include "core/status_macros.h"

namespace octet {
namespace {

using octet::v1::Dispatch;
using octet::v1::DispatchError;
using octet::v1::DispatchReply;

absl::Status ValidateGroup(const DispatchView::Group& group, uint32_t row_count,
                           std::vector<bool>* used) {
  if (group.rows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("dispatch.experts: expert ", group.expert, " has no rows"));
  }
  int64_t previous = -1;
  for (const uint32_t row : group.rows) {
    if (row >= row_count || static_cast<int64_t>(row) <= previous) {
      return absl::InvalidArgumentError(
          absl::StrCat("dispatch.experts: row ", row, " of expert ", group.expert,
                       " is out of order or not below row_count = ", row_count));
    }
    previous = row;
    (*used)[row] = true;
  }
  return absl::OkStatus();
}

absl::Status ValidateGroups(const DispatchView& dispatch, uint32_t experts) {
  if (dispatch.groups.empty() || dispatch.groups.size() > experts) {
    return absl::InvalidArgumentError(absl::StrCat("dispatch.experts: ", dispatch.groups.size(),
                                                   " entries, allowed are 1 to ", experts));
  }
  std::vector<bool> used(dispatch.row_count, false);
  int64_t previous = -1;
  for (const DispatchView::Group& group : dispatch.groups) {
    if (group.expert >= experts || static_cast<int64_t>(group.expert) <= previous) {
      return absl::InvalidArgumentError(absl::StrCat("dispatch.experts: expert ", group.expert,
                                                     " is out of order or not below ", experts));
    }
    previous = group.expert;
    OCTET_RETURN_IF_ERROR(ValidateGroup(group, dispatch.row_count, &used));
  }
  if (std::find(used.begin(), used.end(), false) != used.end()) {
    return absl::InvalidArgumentError("dispatch.rows: a row that no expert uses");
  }
  return absl::OkStatus();
}

// Fields in the order of the message: numbers as 64 bits, strings and lists after their length. All
// of it goes through one checksum: with checksums of parts inside, two flipped bits can cancel.
class SealWriter {
 public:
  void Add(uint64_t value) { AddBytes(&value, sizeof(value)); }
  void Add(const std::string& text) {
    Add(text.size());
    AddBytes(text.data(), text.size());
  }
  void Add(const google::protobuf::RepeatedField<uint32_t>& values) {
    const auto count = static_cast<size_t>(values.size());
    Add(count);
    AddBytes(values.data(), count * sizeof(uint32_t));
  }
  void Add(const octet::v1::DispatchKey& key) {
    Add(key.router());
    Add(key.incarnation());
    Add(key.step());
    Add(key.micro_batch());
    Add(key.layer());
    Add(key.attempt());
  }
  uint32_t Crc() const { return Crc32c(bytes_.data(), bytes_.size()); }

 private:
  void AddBytes(const void* data, size_t size) {
    const char* const from = static_cast<const char*>(data);
    bytes_.insert(bytes_.end(), from, from + size);
  }
  absl::InlinedVector<char, 1024> bytes_;
};

uint32_t SealOf(const Dispatch& d) {
  SealWriter seal;
  seal.Add(d.key());
  seal.Add(d.epoch());
  seal.Add(d.compute_digest());
  seal.Add(d.model_version());
  seal.Add(static_cast<uint64_t>(d.priority()));
  seal.Add(d.row_count());
  seal.Add(static_cast<uint64_t>(d.experts_size()));
  for (const auto& group : d.experts()) {
    seal.Add(group.expert());
    seal.Add(group.rows());
  }
  seal.Add(d.checksum());
  return seal.Crc();
}

uint32_t SealOf(const DispatchReply& r) {
  SealWriter seal;
  seal.Add(r.key());
  seal.Add(static_cast<uint64_t>(r.error()));
  seal.Add(r.message());
  seal.Add(r.checksum());
  seal.Add(r.compute_ns());
  seal.Add(r.queue_ns());
  return seal.Crc();
}

}  // namespace

void Seal(Dispatch* dispatch) { dispatch->set_seal(SealOf(*dispatch)); }
void Seal(DispatchReply* reply) { reply->set_seal(SealOf(*reply)); }
bool SealFits(const Dispatch& dispatch) { return dispatch.seal() == SealOf(dispatch); }
bool SealFits(const DispatchReply& reply) { return reply.seal() == SealOf(reply); }

void DispatchKeyToProto(const DispatchKey& key, octet::v1::DispatchKey* proto) {
  proto->set_router(key.router.value());
  proto->set_incarnation(key.incarnation);
  proto->set_step(key.step.value());
  proto->set_micro_batch(key.micro_batch);
  proto->set_layer(key.layer.value());
  proto->set_attempt(key.attempt);
}

DispatchKey DispatchKeyFromProto(const octet::v1::DispatchKey& proto) {
  DispatchKey key;
  key.router = RouterId(proto.router());
  key.incarnation = proto.incarnation();
  key.step = StepId(proto.step());
  key.micro_batch = proto.micro_batch();
  key.layer = LayerId(proto.layer());
  key.attempt = proto.attempt();
  return key;
}

DispatchError DispatchErrorFromStatus(const absl::Status& status) {
  if (IsDamaged(status)) return octet::v1::DISPATCH_DAMAGED;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return octet::v1::DISPATCH_OK;
    case absl::StatusCode::kNotFound:
      return octet::v1::DISPATCH_NOT_HELD;
    case absl::StatusCode::kFailedPrecondition:
      return octet::v1::DISPATCH_WRONG_DIGEST;
    case absl::StatusCode::kInvalidArgument:
      return octet::v1::DISPATCH_MALFORMED;
    case absl::StatusCode::kResourceExhausted:
      return octet::v1::DISPATCH_OVERLOADED;
    case absl::StatusCode::kUnavailable:
      return octet::v1::DISPATCH_DRAINING;
    default:
      return octet::v1::DISPATCH_DATA_LOSS;
  }
}

absl::Status StatusFromDispatchError(DispatchError error, const std::string& message) {
  const std::string text = message.substr(0, kStatusMessageBytesMax);
  switch (error) {
    case octet::v1::DISPATCH_OK:
      return absl::OkStatus();
    case octet::v1::DISPATCH_NOT_HELD:
      return absl::NotFoundError(text);
    case octet::v1::DISPATCH_WRONG_DIGEST:
      return absl::FailedPreconditionError(text);
    case octet::v1::DISPATCH_MALFORMED:
      return absl::InvalidArgumentError(text);
    case octet::v1::DISPATCH_OVERLOADED:
      return absl::ResourceExhaustedError(text);
    case octet::v1::DISPATCH_DRAINING:
      return absl::UnavailableError(text);
    case octet::v1::DISPATCH_DATA_LOSS:
      return absl::DataLossError(text);
    case octet::v1::DISPATCH_DAMAGED:
      return DamagedError(text);
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("the worker refused with an unknown code ", static_cast<int>(error)));
  }
}

DispatchView ViewOf(Dispatch& dispatch, std::vector<DispatchView::Group>* groups) {
  groups->clear();
  for (const auto& group : dispatch.experts()) {
    groups->push_back(
        {group.expert(),
         absl::MakeConstSpan(group.rows().data(), static_cast<size_t>(group.rows_size()))});
  }
  DispatchView view;
  view.compute_digest = dispatch.compute_digest();
  view.has_key = dispatch.has_key();
  view.layer = dispatch.key().layer();
  view.prefill = dispatch.priority() == octet::v1::PRIORITY_PREFILL;
  view.row_count = dispatch.row_count();
  view.rows = absl::MakeSpan(*dispatch.mutable_rows());
  view.groups = *groups;
  view.checksum = dispatch.checksum();
  return view;
}

absl::Status ValidateDispatch(const DispatchView& dispatch, const DispatchShape& shape) {
  if (!dispatch.has_key || dispatch.layer >= shape.formats.size()) {
    return absl::InvalidArgumentError(absl::StrCat("dispatch.key.layer: ", dispatch.layer,
                                                   ", the model has ", shape.formats.size()));
  }
  if (dispatch.row_count == 0 || dispatch.row_count > kDispatchRowsMax) {
    return absl::InvalidArgumentError(absl::StrCat("dispatch.row_count: ", dispatch.row_count,
                                                   ", allowed are 1 to ", kDispatchRowsMax));
  }
  const size_t row_bytes = shape.formats[dispatch.layer].RowBytes();
  if (dispatch.rows.size() != dispatch.row_count * row_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("dispatch.rows: ", dispatch.rows.size(),
                     " bytes, must be row_count = ", dispatch.row_count, " times ", row_bytes));
  }
  OCTET_RETURN_IF_ERROR(ValidateGroups(dispatch, shape.experts));
  if (dispatch.checked && Crc32c(dispatch.rows.data(), dispatch.rows.size()) != dispatch.checksum) {
    return absl::InvalidArgumentError("dispatch.checksum: does not fit the rows");
  }
  return absl::OkStatus();
}

absl::Status ValidateReply(const DispatchReply& reply, const WireFormat& format, size_t rows) {
  OCTET_RETURN_IF_ERROR(StatusFromDispatchError(reply.error(), reply.message()));
  if (reply.rows().size() != rows * format.ReplyRowBytes()) {
    return absl::DataLossError(absl::StrCat("reply.rows: ", reply.rows().size(), " bytes, must be ",
                                            rows, " times ", format.ReplyRowBytes()));
  }
  if (Crc32c(reply.rows().data(), reply.rows().size()) != reply.checksum()) {
    return absl::DataLossError("reply.checksum: does not fit the rows");
  }
  return absl::OkStatus();
}

size_t ReplyRows(const Dispatch& dispatch) {
  size_t rows = 0;
  for (const auto& group : dispatch.experts()) rows += static_cast<size_t>(group.rows_size());
  return rows;
}

}  // namespace octet
