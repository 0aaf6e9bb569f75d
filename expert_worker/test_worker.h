// A worker without a coordinator, for tests: store, loop, service, gRPC server and, on request,
// shared memory.
#ifndef OCTET_EXPERT_WORKER_TEST_WORKER_H_
#define OCTET_EXPERT_WORKER_TEST_WORKER_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/clock.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/load_counter.h"
#include "expert_worker/service.h"
#include "expert_worker/shm_server.h"
#include "expert_worker/worker_loop.h"
#include "rpc/channel.h"
#include "transport/shm/control_socket.h"
#include "transport/shm/segment.h"

namespace octet {

struct TestWorkerOptions {
  std::string listen = "127.0.0.1:0";
  std::string shm_directory;             // of its socket, named by the gRPC address; empty: none
  std::function<void()> before_compute;  // on the compute thread, before each kernel call
  int threads = 1;
  CpuLevel level = DetectCpuLevel();
};

class TestWorker {
 public:
  // CHECKs that everything starts.
  explicit TestWorker(std::shared_ptr<ExpertStore> store, const TestWorkerOptions& options = {})
      : store_(std::move(store)),
        load_(store_->model().experts),
        executor_(options.threads, options.level),
        doorbell_(SharedMemory::Create("test-worker", kDoorbellPageBytes).value()),
        loop_(
            [this, before = options.before_compute](
                const MappedExpert& expert, LayerId layer, const ExpertInput& input,
                absl::Span<const uint32_t> rows, TensorF32 out) {
              if (before) before();
              return RunExpert(executor_.context(), expert, layer, input, rows, out);
            },
            &clock_, &load_, reinterpret_cast<DoorbellWords*>(doorbell_.data())),
        service_(store_.get(), &loop_) {
    RpcServerOptions rpc;
    rpc.message_bytes_max = service_.message_bytes_max();
    auto server = RpcServer::Start(options.listen, {&service_}, rpc);
    OCTET_CHECK(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    if (options.shm_directory.empty()) return;
    ShmServerOptions shm;
    shm.socket = ShmSocketPath(options.shm_directory, server_->address()).value();
    shm.doorbell = &doorbell_;
    auto started = ShmServer::Start(shm, store_.get(), &loop_);
    OCTET_CHECK(started.ok()) << started.status().ToString();
    shm_ = *std::move(started);
  }
  ~TestWorker() {
    shm_.reset();
    server_->Shutdown(Duration{});
  }

  const std::string& address() const { return server_->address(); }
  LoadCounter& load() { return load_; }
  WorkerLoop& loop() { return loop_; }

 private:
  std::shared_ptr<ExpertStore> store_;
  SystemClock clock_;
  LoadCounter load_;
  ExpertExecutor executor_;
  SharedMemory doorbell_;
  WorkerLoop loop_;
  ExpertService service_;
  std::unique_ptr<ShmServer> shm_;
  std::unique_ptr<RpcServer> server_;
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_TEST_WORKER_H_
