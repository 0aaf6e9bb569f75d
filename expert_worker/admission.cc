#include "expert_worker/admission.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "transport/wire_rows.h"

namespace octet {

DispatchShape ShapeOf(const WorkerModel& model) {
  DispatchShape shape;
  shape.formats = model.formats;
  shape.experts = model.experts;
  return shape;
}

absl::Status AdmitDispatch(const DispatchView& dispatch, const ExpertStore& store,
                           const DispatchShape& shape, ExpertJob* job) {
  if (dispatch.compute_digest != store.model().compute_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat("dispatch.compute_digest: ", dispatch.compute_digest.substr(0, 64),
                     ", this worker serves ", store.model().compute_digest));
  }
  OCTET_RETURN_IF_ERROR(ValidateDispatch(dispatch, shape));
  job->layer = LayerId(dispatch.layer);
  job->prefill = dispatch.prefill;
  job->format = shape.formats[dispatch.layer];
  job->input = InputOf(dispatch.rows.data(), dispatch.row_count, job->format);
  job->groups.clear();
  size_t reply_row = 0;
  for (const DispatchView::Group& group : dispatch.groups) {
    ExpertJob::Group& g = job->groups.emplace_back();
    g.expert = ExpertId(group.expert);
    g.weights = store.Find(g.expert);
    if (g.weights == nullptr) {
      return absl::NotFoundError(absl::StrCat("expert ", group.expert, " is not held here"));
    }
    g.rows = group.rows;
    g.reply_row = reply_row;
    reply_row += g.rows.size();
  }
  // Before anything is allocated for the reply.
  if (reply_row > size_t{dispatch.row_count} * kTopKMax ||
      reply_row * job->format.ReplyRowBytes() > kFrameBytesMax - kFrameHeadBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("dispatch.experts: ", reply_row, " reply rows for ", dispatch.row_count,
                     " rows; at most ", kTopKMax, " per row and ", kFrameBytesMax, " bytes"));
  }
  job->bytes = dispatch.rows.size() + reply_row * job->format.hidden * sizeof(float);
  return absl::OkStatus();
}

}  // namespace octet
