// Dispatches from a peer: any message is refused with one clear error or becomes a job whose every
// index and size lies inside the message.
// Links: octet_expert_worker
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/limits.h"
#include "expert_worker/admission.h"

namespace {

// Two layers, one of them integer; four experts, of which the third is not held.
octet::WorkerModel TwoLayers() {
  octet::WorkerModel model;
  model.compute_digest = std::string(64, 'a');
  model.experts = 4;
  model.formats = {{8, 0, octet::ReplyDType::kF32}, {10, 4, octet::ReplyDType::kBF16}};
  model.load = [](octet::ExpertId) -> absl::StatusOr<octet::MappedExpert> {
    return octet::MappedExpert{};
  };
  return model;
}

void CheckJob(const octet::v1::Dispatch& request, const octet::ExpertJob& job) {
  const octet::WireFormat& format = job.format;
  OCTET_CHECK(request.row_count() >= 1 && request.row_count() <= octet::kDispatchRowsMax);
  size_t reply_row = 0;
  double sum = 0;
  for (const octet::ExpertJob::Group& group : job.groups) {
    OCTET_CHECK(group.weights != nullptr);
    OCTET_CHECK_EQ(group.reply_row, reply_row);
    reply_row += group.rows.size();
    for (const uint32_t row : group.rows) {
      // Reads each row from its first to its last byte, as a kernel would.
      if (format.is_integer()) {
        for (size_t i = 0; i < format.padded_hidden(); ++i) {
          sum += job.input.q.q[row * format.padded_hidden() + i];
        }
        sum += job.input.q.scales[(row + 1) * format.groups() - 1];
      } else {
        sum += job.input.f32.row(row)[0] + job.input.f32.row(row)[format.hidden - 1];
      }
    }
  }
  OCTET_CHECK_EQ(reply_row, octet::ReplyRows(request));
  volatile double sink = sum;  // so that the reads stay
  (void)sink;
}

}  // namespace

// The first byte says whether digest (1) and checksum (2) are put right, so that what lies behind
// these checks is reached.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static octet::ExpertStore* const store = [] {
    auto* made = new octet::ExpertStore(TwoLayers());
    const octet::ExpertId held[] = {octet::ExpertId(0), octet::ExpertId(1), octet::ExpertId(3)};
    OCTET_CHECK(made->Prepare(octet::Epoch(1), held).ok());
    return made;
  }();
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  if (size == 0) return 0;
  octet::v1::Dispatch request;
  if (!request.ParseFromArray(data + 1, static_cast<int>(size - 1))) return 0;
  if (data[0] & 1) request.set_compute_digest(store->model().compute_digest);
  if (data[0] & 2) {
    request.set_checksum(octet::Crc32c(request.rows().data(), request.rows().size()));
  }
  octet::ExpertJob job;
  std::vector<octet::DispatchView::Group> groups;
  const absl::Status status = octet::AdmitDispatch(octet::ViewOf(request, &groups), *store,
                                                   octet::ShapeOf(store->model()), &job);
  if (!status.ok()) {
    OCTET_CHECK(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                absl::IsFailedPrecondition(status));
    OCTET_CHECK(!status.message().empty());
    return 0;
  }
  CheckJob(request, job);
  return 0;
}
