#include "expert_worker/worker_model.h"

#include <utility>

namespace octet {

WorkerModel PackageWorkerModel(std::shared_ptr<const ModelPackage> package, int threads) {
  WorkerModel model;
  model.name = package->name();
  model.compute_digest = package->compute_digest();
  model.model_version = package->model_version();
  model.experts = package->config().experts;
  for (uint32_t layer = 0; layer < package->config().layers; ++layer) {
    model.formats.push_back(package->wire_format(LayerId(layer)));
  }
  model.expert_bytes = package->expert_bytes();
  model.numerics = package->numerics();
  model.load = [package = std::move(package), threads](ExpertId expert) {
    return package->MapExpert(expert, threads);
  };
  return model;
}

}  // namespace octet
