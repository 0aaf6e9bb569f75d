// A worker without a coordinator that serves routers over gRPC and over a fake NCCL, for tests.
#ifndef OCTET_EXPERT_WORKER_NCCL_TEST_WORKER_H_
#define OCTET_EXPERT_WORKER_NCCL_TEST_WORKER_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/clock.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/load_counter.h"
#include "expert_worker/nccl_server.h"
#include "expert_worker/service.h"
#include "expert_worker/worker_loop.h"
#include "rpc/channel.h"
#include "transport/nccl/device_thread.h"
#include "transport/nccl/fake_nccl.h"

namespace octet {

struct NcclTestWorkerOptions {
  std::string listen = "127.0.0.1:0";
  std::function<void()> before_compute;  // on the compute thread, before each kernel call
  NcclDeadlines deadlines;
  // Rows are computed where NCCL puts them, as on a GPU: the fake's memory is the host's.
  bool on_device = false;
};

class NcclTestWorker {
 public:
  // CHECKs that everything starts.
  explicit NcclTestWorker(std::shared_ptr<ExpertStore> store,
                          const NcclTestWorkerOptions& options = {})
      : store_(std::move(store)),
        load_(store_->model().experts),
        executor_(1, DetectCpuLevel()),
        loop_(
            [this, before = options.before_compute](
                const MappedExpert& expert, LayerId layer, const ExpertInput& input,
                absl::Span<const uint32_t> rows, TensorF32 out) {
              if (before) before();
              return RunExpert(executor_.context(), expert, layer, input, rows, out);
            },
            &clock_, &load_),
        service_(store_.get(), &loop_) {
    NcclDeviceOptions device;
    device.deadlines = options.deadlines;
    nccl_ = NcclServer::Create(NcclDeviceThread::Start(&api_, device, &clock_).value(),
                               store_.get(), &loop_, options.on_device)
                .value();
    RpcServerOptions rpc;
    rpc.message_bytes_max = service_.message_bytes_max();
    auto server = RpcServer::Start(options.listen, {&service_, nccl_.get()}, rpc);
    OCTET_CHECK(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
  }
  ~NcclTestWorker() { Stop(); }

  void Stop() {
    if (nccl_ == nullptr) return;
    server_->Shutdown(Duration{});
    nccl_.reset();
  }
  const std::string& address() const { return server_->address(); }
  FakeNccl& api() { return api_; }
  LoadCounter& load() { return load_; }
  WorkerLoop& loop() { return loop_; }

 private:
  std::shared_ptr<ExpertStore> store_;
  SystemClock clock_;
  FakeNccl api_;
  LoadCounter load_;
  ExpertExecutor executor_;
  WorkerLoop loop_;
  ExpertService service_;
  std::unique_ptr<NcclServer> nccl_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_NCCL_TEST_WORKER_H_
