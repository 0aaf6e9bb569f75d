#include "model/blob_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "core/status_macros.h"
#include "kernels/packed_weights.h"
#include "model/aligned_buffer.h"
#include "model/file_digest.h"
#include "model/mapped_file.h"
#include "model/parallel.h"
#include "model/safetensors.h"

namespace octet {
namespace {

constexpr size_t kPanel = 16;  // outputs that the packed layout keeps together

// A file descriptor that is closed when it goes out of scope.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ~ScopedFd() {
    if (fd_ >= 0) close(fd_);
  }
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status WriteAt(int fd, const void* data, uint64_t bytes, uint64_t offset,
                     const std::string& path) {
  const auto* from = static_cast<const uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, from, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return FileError(n < 0 ? errno : ENOSPC, "cannot write", path);
    from += n;
    bytes -= static_cast<uint64_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

// Rows [row, row + rows) of a tensor: whole panels, but for the last piece.
struct Piece {
  size_t tensor = 0;
  size_t row = 0;
  size_t rows = 0;
};

std::vector<Piece> Pieces(const std::vector<BlobTensor>& tensors) {
  std::vector<Piece> pieces;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const SourceMatrix& matrix = tensors[t].matrix;
    const size_t fit = kPackChunkBytes / (matrix.k * sizeof(float)) / kPanel * kPanel;
    const size_t rows = std::max(fit, kPanel);
    for (size_t row = 0; row < matrix.n; row += rows) {
      pieces.push_back({t, row, std::min(rows, matrix.n - row)});
    }
  }
  return pieces;
}

// Bytes of `rows` rows in the blob.
uint64_t PackedPieceBytes(const BlobTensor& tensor, size_t rows) {
  if (tensor.vector) return (tensor.matrix.k + kPanel - 1) / kPanel * kPanel * sizeof(float);
  return PackedBytes(tensor.format, rows, tensor.matrix.k);
}

absl::Status EncodePiece(const BlobTensor& tensor, const Piece& piece, AlignedBuffer* out) {
  const SourceMatrix& matrix = tensor.matrix;
  if (tensor.vector) {
    memset(out->data(), 0, PackedPieceBytes(tensor, 1));
    return SourceRowsF32(matrix, 0, 1, out->floats());
  }
  if (tensor.format == matrix.format) {
    AlignedBuffer rows(piece.rows * matrix.row_bytes);
    CopySourceRows(matrix, piece.row, piece.rows, rows.data());
    return PackGgufBlocks(tensor.format, piece.rows, matrix.k, rows.data(), out->data());
  }
  AlignedBuffer rows(piece.rows * matrix.k * sizeof(float));
  OCTET_RETURN_IF_ERROR(SourceRowsF32(matrix, piece.row, piece.rows, rows.floats()));
  return PackFloatWeights(
      tensor.format, MatrixView<const float>(rows.floats(), piece.rows, matrix.k), out->data());
}

SafetensorsPlan PlanBlob(const std::vector<BlobTensor>& tensors) {
  std::vector<SafetensorsPlan::Tensor> planned;
  for (const BlobTensor& tensor : tensors) {
    SafetensorsPlan::Tensor entry;
    entry.name = tensor.name;
    entry.dtype = tensor.vector ? "F32" : "U8";
    entry.shape = {BlobTensorBytes(tensor) / (tensor.vector ? sizeof(float) : 1)};
    planned.push_back(std::move(entry));
  }
  return PlanSafetensors(std::move(planned));
}

}  // namespace

uint64_t BlobTensorBytes(const BlobTensor& tensor) {
  return PackedPieceBytes(tensor, tensor.matrix.n);
}

absl::StatusOr<ManifestBlob> WriteBlob(const std::vector<BlobTensor>& tensors,
                                       absl::string_view directory,
                                       absl::FunctionRef<void(uint64_t bytes)> on_bytes) {
  const SafetensorsPlan plan = PlanBlob(tensors);
  const std::string path = absl::StrCat(directory, "/unfinished");
  const ScopedFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) return FileError(errno, "cannot create", path);
  OCTET_RETURN_IF_ERROR(WriteAt(fd.get(), plan.header.data(), plan.header.size(), 0, path));
  const std::vector<Piece> pieces = Pieces(tensors);
  std::vector<uint64_t> bytes_before = {0};
  for (const Piece& piece : pieces) {
    bytes_before.push_back(bytes_before.back() +
                           PackedPieceBytes(tensors[piece.tensor], piece.rows));
  }
  uint64_t reported = 0;
  OCTET_RETURN_IF_ERROR(RunParallel(
      LoadThreads(), pieces.size(),
      [&](size_t i) {
        const Piece& piece = pieces[i];
        const BlobTensor& tensor = tensors[piece.tensor];
        const uint64_t bytes = PackedPieceBytes(tensor, piece.rows);
        AlignedBuffer packed(bytes);
        const absl::Status status = EncodePiece(tensor, piece, &packed);
        if (!status.ok()) {
          return absl::Status(status.code(), absl::StrCat("tensor \"", tensor.matrix.name,
                                                          "\": ", status.message()));
        }
        const uint64_t begin = plan.tensors[piece.tensor].begin +
                               PackedPieceBytes(tensor, kPanel) * (piece.row / kPanel);
        return WriteAt(fd.get(), packed.data(), bytes, begin, path);
      },
      [&](size_t done) {
        // Pieces end out of order, so this is the progress of some set of that many pieces.
        on_bytes(bytes_before[done] - std::min(reported, bytes_before[done]));
        reported = std::max(reported, bytes_before[done]);
      }));
  if (fsync(fd.get()) != 0) return FileError(errno, "cannot write", path);
  OCTET_ASSIGN_OR_RETURN(const auto written, MappedFile::Open(path));
  ManifestBlob blob;
  blob.bytes = written->size();
  blob.digest = DigestHex(ParallelTreeSha256(written->data(), written->size(), LoadThreads()));
  const std::string final_path = absl::StrCat(directory, "/", blob.digest);
  if (rename(path.c_str(), final_path.c_str()) != 0) {
    return FileError(errno, "cannot create", final_path);
  }
  return blob;
}

absl::Status WriteSmallFile(absl::string_view path, absl::string_view bytes) {
  const std::string name(path);
  const ScopedFd fd(open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) return FileError(errno, "cannot create", name);
  OCTET_RETURN_IF_ERROR(WriteAt(fd.get(), bytes.data(), bytes.size(), 0, name));
  if (fsync(fd.get()) != 0) return FileError(errno, "cannot write", name);
  return absl::OkStatus();
}

absl::Status SyncDirectory(absl::string_view path) {
  const std::string name(path);
  const ScopedFd fd(open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return FileError(errno, "cannot open", name);
  if (fsync(fd.get()) != 0) return FileError(errno, "cannot write", name);
  return absl::OkStatus();
}

}  // namespace octet
