// A plan of GPUs as text and as JSON.
#ifndef OCTET_CLI_PLAN_REPORT_H_
#define OCTET_CLI_PLAN_REPORT_H_

#include <string>
#include <vector>

#include "coordinator/gpu_plan.h"

namespace octet {

// Of the model of MeasuredSteps(), beside what was measured.
struct PlanStepCheck {
  MeasuredStep step;
  double estimated_tokens_per_s = 0;
  double own_experts_tokens_per_s = 0;  // the estimate for rows that choose by themselves
};
struct PlanPromptCheck {
  MeasuredPrompt prompt;
  double estimated_seconds = 0;
};

struct PlanReport {
  std::string model;  // as it was named
  PlanInput input;
  GpuPlan plan;
  std::vector<PlanStepCheck> step_checks;
  std::vector<PlanPromptCheck> prompt_checks;
};

std::string PlanText(const PlanReport& report);
// One object; bytes and seconds without units of their own.
std::string PlanJson(const PlanReport& report);

}  // namespace octet

#endif  // OCTET_CLI_PLAN_REPORT_H_
