#include "router/kv_tier.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/kv_tier_limits.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "router/kv_tier_block.h"

namespace octet {
namespace {

constexpr char kSuffix[] = ".kv";

// An open file, closed at the end.
class File {
 public:
  File(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  bool Write(const void* data, size_t bytes) const {
    const auto* from = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
      const ssize_t n = write(fd_, from, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      from += n;
      bytes -= static_cast<size_t>(n);
    }
    return true;
  }
  bool Read(void* data, size_t bytes) const {
    auto* to = static_cast<uint8_t*>(data);
    while (bytes > 0) {
      const ssize_t n = read(fd_, to, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      to += n;
      bytes -= static_cast<size_t>(n);
    }
    return true;
  }

 private:
  const int fd_;
};

}  // namespace

StagedBlock::StagedBlock(std::vector<uint8_t> bytes, std::shared_ptr<std::atomic<uint64_t>> held) {
  *held += bytes.size();
  bytes_ = std::shared_ptr<const std::vector<uint8_t>>(
      new std::vector<uint8_t>(std::move(bytes)),
      [held = std::move(held)](const std::vector<uint8_t>* last) {
        *held -= last->size();
        delete last;
      });
}

struct KvTier::Impl {
  struct Writing {
    KvTierKey key;
    std::vector<uint8_t> data;
  };
  struct Fetching {
    std::vector<KvTierKey> keys;
    FetchFn done;
  };

  void Run();
  // ---- The tier's thread ----
  void WriteBlock(const Writing& writing);
  std::optional<std::vector<uint8_t>> ReadBlock(const KvTierKey& key);
  void Serve(Fetching fetching);
  void DeleteAll();
  // Deletes the files unused for longest until there is room again; counts what is there.
  void MakeRoom();
  std::string PathOf(const Digest& key) const {
    return absl::StrCat(options.directory, "/", DigestHex(key), kSuffix);
  }

  KvTierOptions options;
  const std::shared_ptr<std::atomic<uint64_t>> staged = std::make_shared<std::atomic<uint64_t>>(0);
  uint64_t bytes = 0;  // of all files, as far as known; the tier's thread
  uint64_t files_made = 0;
  bool damage_seen = false;

  mutable Mutex mu;
  CondVar work;
  std::deque<Writing> writes OCTET_GUARDED_BY(mu);
  std::deque<Fetching> fetches OCTET_GUARDED_BY(mu);
  bool clearing OCTET_GUARDED_BY(mu) = false;
  bool stopping OCTET_GUARDED_BY(mu) = false;
  KvTierStats stats OCTET_GUARDED_BY(mu);
  std::thread thread;  // last
};

absl::StatusOr<std::unique_ptr<KvTier>> KvTier::Open(const KvTierOptions& options) {
  std::error_code error;
  if (!std::filesystem::exists(options.directory, error)) {
    std::filesystem::create_directories(options.directory, error);
    if (!error) {
      std::filesystem::permissions(options.directory, std::filesystem::perms::owner_all, error);
    }
  }
  if (error || !std::filesystem::is_directory(options.directory, error)) {
    return absl::InvalidArgumentError(absl::StrCat("kv_tier_dir: ", options.directory,
                                                   " is no directory and can't be made one",
                                                   error ? ": " + error.message() : ""));
  }
  if (access(options.directory.c_str(), R_OK | W_OK | X_OK) != 0) {
    return absl::UnavailableError(
        absl::StrCat("kv_tier_dir: ", options.directory, " can't be written"));
  }
  const uint64_t file_bytes = options.block_bytes + sizeof(KvTierHeader);
  if (options.bytes_max < file_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("kv_tier_bytes: ", options.bytes_max,
                                                   " is less than one block, which takes ",
                                                   file_bytes, " bytes for this model"));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->MakeRoom();
  std::unique_ptr<KvTier> tier(new KvTier(std::move(impl)));
  tier->impl_->thread = std::thread([state = tier->impl_.get()] { state->Run(); });
  return tier;
}

KvTier::KvTier(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

KvTier::~KvTier() {
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->work.NotifyAll();
  }
  if (impl_->thread.joinable()) impl_->thread.join();
}

void KvTier::Store(KvTierKey key, const uint8_t* data) {
  OCTET_CHECK_EQ(key.tokens.size(), size_t{kKvBlockPositions});
  MutexLock lock(impl_->mu);
  const size_t bytes = impl_->options.block_bytes;
  if (impl_->stats.disabled || (impl_->writes.size() + 1) * bytes > kKvTierQueuedBytesMax) {
    ++impl_->stats.dropped;
    return;
  }
  impl_->writes.push_back({std::move(key), std::vector<uint8_t>(data, data + bytes)});
  impl_->work.NotifyAll();
}

void KvTier::Clear() {
  MutexLock lock(impl_->mu);
  impl_->writes.clear();
  impl_->clearing = true;
  impl_->work.NotifyAll();
}

void KvTier::Fetch(std::vector<KvTierKey> keys, FetchFn done) {
  MutexLock lock(impl_->mu);
  impl_->fetches.push_back({std::move(keys), std::move(done)});
  impl_->work.NotifyAll();
}

KvTierStats KvTier::stats() const {
  MutexLock lock(impl_->mu);
  return impl_->stats;
}

void KvTier::Impl::Run() {
  for (;;) {
    std::optional<Fetching> fetching;
    std::optional<Writing> writing;
    bool clear = false;
    {
      MutexLock lock(mu);
      while (fetches.empty() && writes.empty() && !clearing && !stopping) work.Wait(mu);
      clear = std::exchange(clearing, false);
      // Somebody waits for what is read, nobody for what is written.
      if (!fetches.empty()) {
        fetching = std::move(fetches.front());
        fetches.pop_front();
      } else if (!writes.empty()) {
        writing = std::move(writes.front());
        writes.pop_front();
      } else if (!clear) {
        return;
      }
    }
    if (clear) DeleteAll();
    if (fetching.has_value()) Serve(*std::move(fetching));
    if (writing.has_value()) WriteBlock(*writing);
  }
}

void KvTier::Impl::Serve(Fetching fetching) {
  std::vector<StagedBlock> blocks;
  for (const KvTierKey& key : fetching.keys) {
    if (*staged + options.block_bytes > kKvTierStagedBytesMax) break;
    auto read = ReadBlock(key);
    if (!read.has_value()) break;
    blocks.emplace_back(*std::move(read), staged);
  }
  {
    MutexLock lock(mu);
    stats.read += blocks.size();
  }
  fetching.done(std::move(blocks));
}

std::optional<std::vector<uint8_t>> KvTier::Impl::ReadBlock(const KvTierKey& key) {
  const std::string path = PathOf(key.key);
  const File file(path, O_RDONLY);
  if (!file.is_open()) return std::nullopt;
  KvTierHeader header;
  std::vector<uint8_t> data(options.block_bytes);
  uint8_t beyond = 0;
  const bool good = file.Read(header.data(), header.size()) &&
                    file.Read(data.data(), data.size()) && !file.Read(&beyond, 1) &&
                    IsKvTierBlock(header, data, key);
  if (good) {
    (void)futimens(file.fd(), nullptr);  // used just now
    return data;
  }
  if (!damage_seen)
    LogWarning("KV tier: ", path, " is damaged or not ours; such files are deleted");
  (void)unlink(path.c_str());
  damage_seen = true;
  MutexLock lock(mu);
  ++stats.damaged;
  return std::nullopt;
}

void KvTier::Impl::WriteBlock(const Writing& writing) {
  const std::string path = PathOf(writing.key.key);
  // Another router was faster. Where one file was damaged others may be: all are written anew.
  if (!damage_seen && access(path.c_str(), F_OK) == 0) return;
  const uint64_t file_bytes = sizeof(KvTierHeader) + writing.data.size();
  if (bytes + file_bytes > options.bytes_max) MakeRoom();
  const std::string unfinished =
      absl::StrCat(options.directory, "/.", getpid(), "-", ++files_made, ".tmp");
  bool written = false;
  {
    const File file(unfinished, O_WRONLY | O_CREAT | O_EXCL);
    const KvTierHeader header = KvTierHeaderOf(writing.key, writing.data);
    written = file.is_open() && file.Write(header.data(), header.size()) &&
              file.Write(writing.data.data(), writing.data.size());
  }
  written = written && rename(unfinished.c_str(), path.c_str()) == 0;
  const int failure = errno;
  if (!written) (void)unlink(unfinished.c_str());
  MutexLock lock(mu);
  if (written) {
    bytes += file_bytes;
    ++stats.written;
    return;
  }
  LogWarning("KV tier: writing to ", options.directory, " failed (", std::strerror(failure),
             "); nothing more is written, requests go on");
  stats.disabled = true;
  stats.dropped += 1 + writes.size();
  writes.clear();
}

void KvTier::Impl::DeleteAll() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(options.directory, error)) {
    std::error_code gone;  // another router may delete it meanwhile
    if (absl::EndsWith(entry.path().native(), kSuffix)) std::filesystem::remove(entry, gone);
  }
  bytes = 0;
}

void KvTier::Impl::MakeRoom() {
  struct Found {
    std::filesystem::file_time_type used;
    uint64_t bytes;
    std::filesystem::path path;
  };
  std::vector<Found> found;
  std::error_code error;
  bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(options.directory, error)) {
    if (!absl::EndsWith(entry.path().native(), kSuffix)) continue;
    std::error_code gone;  // another router may delete it meanwhile
    Found file{entry.last_write_time(gone), entry.file_size(gone), entry.path()};
    if (gone) continue;
    bytes += file.bytes;
    found.push_back(std::move(file));
  }
  const uint64_t file_bytes = sizeof(KvTierHeader) + options.block_bytes;
  if (bytes + file_bytes <= options.bytes_max) return;
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.used < b.used; });
  const uint64_t kept = options.bytes_max / 100 * kKvTierKeptPercent;
  for (const Found& file : found) {
    if (bytes + file_bytes <= kept || bytes == 0) break;
    std::filesystem::remove(file.path, error);
    bytes -= file.bytes;
  }
}

}  // namespace octet
