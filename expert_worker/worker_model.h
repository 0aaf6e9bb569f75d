// What an expert worker needs to know of a model.
#ifndef OCTET_EXPERT_WORKER_WORKER_MODEL_H_
#define OCTET_EXPERT_WORKER_WORKER_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/ids.h"
#include "core/wire_format.h"
#include "model/model_package.h"

namespace octet {

struct WorkerModel {
  std::string name;
  std::string compute_digest;
  std::string model_version;
  uint32_t experts = 0;
  std::vector<WireFormat> formats;  // [layer]
  uint64_t expert_bytes = 0;        // of the largest expert
  ExpertNumerics numerics = ExpertNumerics::kExact;
  // Maps and verifies one expert; DATA_LOSS where its file does not match its digest. Blocks;
  // called by one thread at a time.
  std::function<absl::StatusOr<MappedExpert>(ExpertId)> load;
};

// The model of a package; experts are mapped and checked with `threads` threads.
WorkerModel PackageWorkerModel(std::shared_ptr<const ModelPackage> package, int threads);

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_WORKER_MODEL_H_
