// A TCP relay that adds a delay each way, to measure what a network's round trip costs.
//   delay_proxy TARGET_PORT ONE_WAY_MICROSECONDS      # on 127.0.0.1; prints its own port
// Bytes keep their order and are held back until they are due; throughput is not limited. Ends with
// its standard input.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kChunkBytes = 256 << 10;
// Bytes under way in one direction before it stops reading.
constexpr size_t kHeldBytesMax = 64 << 20;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void SendAtOnce(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// One direction of a connection: a thread reads, another writes what is due.
class Direction {
 public:
  Direction(int from, int to, std::chrono::microseconds delay)
      : from_(from), to_(to), delay_(delay), reader_([this] { Read(); }), writer_([this] {
          Write();
        }) {}
  ~Direction() {
    reader_.join();
    writer_.join();
  }

 private:
  struct Chunk {
    Clock::time_point due;
    std::string bytes;  // empty: the end
  };

  void Read() {
    for (;;) {
      std::string bytes(kChunkBytes, '\0');
      const ssize_t count = read(from_, bytes.data(), bytes.size());
      bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
      const bool end = bytes.empty();
      std::unique_lock<std::mutex> lock(mu_);
      changed_.wait(lock, [&] { return held_ < kHeldBytesMax; });
      held_ += bytes.size();
      chunks_.push_back({Clock::now() + delay_, std::move(bytes)});
      changed_.notify_all();
      if (end) return;
    }
  }

  void Write() {
    for (;;) {
      Chunk chunk;
      {
        std::unique_lock<std::mutex> lock(mu_);
        changed_.wait(lock, [&] { return !chunks_.empty(); });
        chunk = std::move(chunks_.front());
        chunks_.pop_front();
        held_ -= chunk.bytes.size();
        changed_.notify_all();
      }
      std::this_thread::sleep_until(chunk.due);
      if (chunk.bytes.empty()) break;
      size_t sent = 0;
      while (sent < chunk.bytes.size()) {
        const ssize_t count =
            send(to_, chunk.bytes.data() + sent, chunk.bytes.size() - sent, MSG_NOSIGNAL);
        if (count <= 0) break;
        sent += static_cast<size_t>(count);
      }
      if (sent < chunk.bytes.size()) break;
    }
    shutdown(to_, SHUT_WR);
    shutdown(from_, SHUT_RD);
    // A reader that waits for room must get to its end.
    std::lock_guard<std::mutex> lock(mu_);
    held_ = 0;
    changed_.notify_all();
  }

  const int from_;
  const int to_;
  const std::chrono::microseconds delay_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Chunk> chunks_;
  size_t held_ = 0;
  std::thread reader_;
  std::thread writer_;
};

void Relay(int client, int target_port, std::chrono::microseconds delay) {
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(target_port);
  if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    SendAtOnce(client);
    SendAtOnce(server);
    const Direction there(client, server, delay);
    const Direction back(server, client, delay);
  }
  close(server);
  close(client);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: delay_proxy TARGET_PORT ONE_WAY_MICROSECONDS\n");
    return 2;
  }
  const int target = std::atoi(argv[1]);
  const std::chrono::microseconds delay(std::atoi(argv[2]));
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 64) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    std::perror("delay_proxy");
    return 1;
  }
  std::printf("%d\n", ntohs(address.sin_port));
  std::fflush(stdout);
  for (;;) {
    pollfd waiting[] = {{listener, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0 || (waiting[1].revents & (POLLHUP | POLLIN)) != 0) break;
    if ((waiting[0].revents & POLLIN) == 0) continue;
    const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client >= 0) std::thread(Relay, client, target, delay).detach();
  }
  std::_Exit(0);  // with whatever connections are open
}
