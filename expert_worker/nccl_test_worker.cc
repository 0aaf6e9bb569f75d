// A process with the worker of nccl_server_test.cc: prints its address and serves until it is
// killed. One argument: where to listen.
#include "expert_worker/nccl_test_worker.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "expert_worker/test_util.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  octet::NcclTestWorkerOptions options;
  options.listen = argv[1];
  options.deadlines.transfer = octet::Duration::Millis(200);
  octet::NcclTestWorker worker(octet::MakeFullStore(), options);
  std::printf("%s\n", worker.address().c_str());
  std::fflush(stdout);
  for (;;) pause();
}
