// A plan of GPUs as text and as JSON.
#ifndef OCTET_CLI_PLAN_REPORT_H_
#define OCTET_CLI_PLAN_REPORT_H_

#include <string>
#include <vector>

#include "coordinator/gpu_plan.h"

namespace octet {

// A step of MeasuredSteps() beside its estimate.
struct PlanCheck {
  MeasuredStep step;
  double estimated_tokens_per_s = 0;
};

struct PlanReport {
  std::string model;  // as it was named
  PlanInput input;
  GpuPlan plan;
  std::vector<PlanCheck> checks;
};

std::string PlanText(const PlanReport& report);
// One object; bytes and seconds without units of their own.
std::string PlanJson(const PlanReport& report);

}  // namespace octet

#endif  // OCTET_CLI_PLAN_REPORT_H_
