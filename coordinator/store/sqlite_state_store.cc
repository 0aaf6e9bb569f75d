#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "coordinator/store/state_store.h"
#include "core/status_macros.h"
#include "rpc/placement_codec.h"

namespace octet {
namespace {

constexpr uint64_t kSchemaVersion = 3;
constexpr char kVersionTable[] =
    "CREATE TABLE version(digest TEXT PRIMARY KEY, version TEXT NOT NULL, name TEXT NOT NULL,"
    " experts INTEGER NOT NULL, layers INTEGER NOT NULL, expert_bytes INTEGER NOT NULL,"
    " placement BLOB);";
constexpr char kSchema[] =
    "CREATE TABLE cluster(one INTEGER PRIMARY KEY CHECK(one = 1), term INTEGER NOT NULL,"
    " epoch INTEGER NOT NULL, next_id INTEGER NOT NULL);"
    "CREATE TABLE member(id INTEGER PRIMARY KEY, role INTEGER NOT NULL, address TEXT NOT NULL,"
    " incarnation INTEGER NOT NULL, zone TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,"
    " memory_bytes INTEGER NOT NULL, draining INTEGER NOT NULL, digest TEXT NOT NULL,"
    " speed INTEGER NOT NULL);"
    "PRAGMA user_version = 3;";
// Schema 1 had one model, whose placement stood beside the epoch.
constexpr char kFromSchema1[] =
    "INSERT INTO version SELECT digest, version, name, experts, layers, expert_bytes,"
    " (SELECT placement FROM cluster) FROM model;"
    "DROP TABLE model;"
    "ALTER TABLE cluster DROP COLUMN placement;"
    "ALTER TABLE member ADD COLUMN digest TEXT NOT NULL DEFAULT '';"
    "UPDATE member SET digest = ifnull((SELECT digest FROM version), '');"
    "PRAGMA user_version = 2;";
// Schema 2 knew nothing of speeds: 16 is kWorkerSpeedEqual.
constexpr char kFromSchema2[] =
    "ALTER TABLE member ADD COLUMN speed INTEGER NOT NULL DEFAULT 16;"
    "PRAGMA user_version = 3;";

// A prepared statement; values are bound and read in order.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    prepared_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr) == SQLITE_OK;
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(uint64_t value) {
    if (prepared_) sqlite3_bind_int64(statement_, ++bound_, static_cast<int64_t>(value));
    return *this;
  }
  Statement& Bind(const std::string& text) {
    if (prepared_) {
      sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                        SQLITE_TRANSIENT);
    }
    return *this;
  }
  Statement& BindBlob(const std::string& bytes) {
    if (prepared_) {
      sqlite3_bind_blob(statement_, ++bound_, bytes.data(), static_cast<int>(bytes.size()),
                        SQLITE_TRANSIENT);
    }
    return *this;
  }
  // SQLITE_ROW, SQLITE_DONE or an error code.
  int Step() { return prepared_ ? sqlite3_step(statement_) : SQLITE_ERROR; }
  uint64_t Integer(int column) const {
    return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
  }
  std::string Bytes(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return data == nullptr ? "" : std::string(static_cast<const char*>(data), size);
  }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

 private:
  sqlite3_stmt* statement_ = nullptr;
  bool prepared_ = false;
  int bound_ = 0;
};

class SqliteStateStore final : public StateStore {
 public:
  SqliteStateStore(std::string path, sqlite3* db) : path_(std::move(path)), db_(db) {}
  ~SqliteStateStore() override { sqlite3_close(db_); }

  absl::Status Prepare();
  absl::StatusOr<std::optional<DurableState>> Load() override;
  absl::Status Save(const DurableState& state) override;

 private:
  absl::Status Error(const char* what) const;
  absl::Status Run(const char* sql, const char* what);
  absl::Status Damaged(const std::string& what) const {
    return absl::DataLossError(absl::StrCat("coordinator store ", path_, ": ", what,
                                            "; restore a copy, or move it away: the epoch goes on "
                                            "from what the members have seen"));
  }
  // All of `steps`, or nothing.
  absl::Status Change(const std::string& steps, const char* what);
  absl::Status LoadVersions(DurableState* state);
  absl::Status LoadMembers(DurableState* state);
  absl::Status CheckNotNewer(const DurableState& state);
  absl::Status Write(const DurableState& state);
  absl::Status WriteVersion(const DurableVersion& version);

  const std::string path_;
  sqlite3* const db_;
};

absl::Status SqliteStateStore::Error(const char* what) const {
  const int code = sqlite3_errcode(db_);
  const int os_error = sqlite3_system_errno(db_);
  const std::string text =
      absl::StrCat("coordinator store ", path_, ": ", what, ": ", sqlite3_errmsg(db_));
  if (code == SQLITE_FULL) return absl::ResourceExhaustedError(absl::StrCat(text, " (disk full)"));
  if (code == SQLITE_IOERR) {
    // SQLite does not pass every errno on; a write cut short leaves none.
    const bool full = os_error == ENOSPC || os_error == EFBIG || os_error == EDQUOT ||
                      (os_error == 0 && sqlite3_extended_errcode(db_) == SQLITE_IOERR_WRITE);
    if (full) return absl::ResourceExhaustedError(absl::StrCat(text, " (no room on the disk)"));
    return absl::UnavailableError(absl::StrCat(text, " (", std::strerror(os_error), ")"));
  }
  if (code == SQLITE_BUSY || code == SQLITE_LOCKED) {
    return absl::UnavailableError(absl::StrCat(text, ": another coordinator has it open"));
  }
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_ERROR) {
    return Damaged(absl::StrCat(what, ": ", sqlite3_errmsg(db_)));
  }
  return absl::UnavailableError(text);
}

absl::Status SqliteStateStore::Run(const char* sql, const char* what) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return Error(what);
}

absl::Status SqliteStateStore::Prepare() {
  sqlite3_limit(db_, SQLITE_LIMIT_LENGTH, static_cast<int>(kCoordinatorStateBytesMax));
  OCTET_RETURN_IF_ERROR(Run("PRAGMA locking_mode = EXCLUSIVE", "locking"));
  OCTET_RETURN_IF_ERROR(Run("PRAGMA journal_mode = WAL", "opening"));
  OCTET_RETURN_IF_ERROR(Run("PRAGMA synchronous = FULL", "opening"));
  // Takes the lock, which is kept until the store is closed.
  OCTET_RETURN_IF_ERROR(Run("BEGIN EXCLUSIVE; COMMIT", "locking"));
  {
    Statement check(db_, "PRAGMA quick_check(1)");
    if (check.Step() != SQLITE_ROW) return Error("checking");
    if (check.Bytes(0) != "ok") return Damaged(check.Bytes(0));
  }
  uint64_t version = 0, tables = 0;
  {
    Statement read(db_, "PRAGMA user_version");
    if (read.Step() != SQLITE_ROW) return Error("reading the version");
    version = read.Integer(0);
    Statement count(db_, "SELECT count(*) FROM sqlite_master");
    if (count.Step() != SQLITE_ROW) return Error("reading the schema");
    tables = count.Integer(0);
  }
  if (version == 0 && tables == 0) {
    return Change(absl::StrCat(kVersionTable, kSchema), "creating");
  }
  if (version == 1) {
    return Change(absl::StrCat(kVersionTable, kFromSchema1, kFromSchema2), "converting");
  }
  if (version == 2) return Change(kFromSchema2, "converting");
  if (version != kSchemaVersion) {
    return Damaged(
        absl::StrCat("schema version ", version, ", this program reads ", kSchemaVersion));
  }
  return absl::OkStatus();
}

absl::Status SqliteStateStore::Change(const std::string& steps, const char* what) {
  const absl::Status changed = Run(absl::StrCat("BEGIN IMMEDIATE;", steps, "COMMIT").c_str(), what);
  if (!changed.ok()) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return changed;
}

absl::Status SqliteStateStore::LoadVersions(DurableState* state) {
  Statement row(db_,
                "SELECT digest, version, name, experts, layers, expert_bytes, placement"
                " FROM version ORDER BY digest");
  int code;
  while ((code = row.Step()) == SQLITE_ROW) {
    if (state->versions.size() >= kVersionsMax) return Damaged("more versions than there can be");
    DurableVersion version;
    version.model.compute_digest = row.Bytes(0);
    version.model.model_version = row.Bytes(1);
    version.model.name = row.Bytes(2);
    if (row.Integer(3) == 0 || row.Integer(3) > kExpertsMax || row.Integer(4) > kLayersMax ||
        !IsDigest(version.model.compute_digest)) {
      return Damaged("model: values out of range");
    }
    version.model.experts = static_cast<uint32_t>(row.Integer(3));
    version.model.layers = static_cast<uint32_t>(row.Integer(4));
    version.model.expert_bytes = row.Integer(5);
    if (!row.IsNull(6)) {
      octet::v1::PlacementTable table;
      if (!table.ParseFromString(row.Bytes(6))) return Damaged("placement: malformed");
      auto placement = PlacementFromProto(table);
      if (!placement.ok()) return Damaged(std::string(placement.status().message()));
      if (placement->epoch > state->epoch) return Damaged("placement: newer than the epoch");
      if (placement->expert_replicas.size() != version.model.experts) {
        return Damaged("placement and model do not fit");
      }
      version.active = *std::move(placement);
    }
    state->versions.push_back(std::move(version));
  }
  return code == SQLITE_DONE ? absl::OkStatus() : Error("reading the versions");
}

absl::Status SqliteStateStore::LoadMembers(DurableState* state) {
  Statement row(db_,
                "SELECT id, role, address, incarnation, zone, host, pid, memory_bytes, draining,"
                " digest, speed FROM member ORDER BY id");
  size_t members = 0;
  int code;
  while ((code = row.Step()) == SQLITE_ROW) {
    MemberRecord member;
    member.id = MemberId(row.Integer(0));
    const uint64_t role = row.Integer(1);
    if (role != 1 && role != 2) return Damaged("member: unknown role");
    if (member.id.value() == 0 || member.id.value() >= state->next_id ||
        ++members > kWatchersMax + kWorkersMax) {
      return Damaged("member: id out of range");
    }
    member.role = static_cast<MemberRole>(role);
    member.address = row.Bytes(2);
    member.incarnation = row.Integer(3);
    member.zone = row.Bytes(4);
    member.host = row.Bytes(5);
    member.pid = static_cast<uint32_t>(row.Integer(6));
    member.memory_bytes = row.Integer(7);
    member.draining = row.Integer(8) != 0;
    const uint64_t speed = row.Integer(10);
    if (speed == 0 || speed > kWorkerSpeedMax) return Damaged("member: speed out of range");
    member.speed = static_cast<uint32_t>(speed);
    const std::string digest = row.Bytes(9);
    const auto version =
        std::find_if(state->versions.begin(), state->versions.end(),
                     [&](const DurableVersion& v) { return v.model.compute_digest == digest; });
    if (version == state->versions.end()) return Damaged("member: of an unknown version");
    version->members.push_back(std::move(member));
  }
  return code == SQLITE_DONE ? absl::OkStatus() : Error("reading the members");
}

absl::StatusOr<std::optional<DurableState>> SqliteStateStore::Load() {
  DurableState state;
  {
    Statement row(db_, "SELECT term, epoch, next_id FROM cluster");
    const int code = row.Step();
    if (code == SQLITE_DONE) return std::optional<DurableState>();
    if (code != SQLITE_ROW) return Error("reading the epoch");
    state.term = row.Integer(0);
    state.epoch = Epoch(row.Integer(1));
    state.next_id = row.Integer(2);
    if (state.term > 2 * kSeenMax || state.epoch.value() > 2 * kSeenMax) {
      return Damaged("term or epoch out of range");
    }
  }
  OCTET_RETURN_IF_ERROR(LoadVersions(&state));
  OCTET_RETURN_IF_ERROR(LoadMembers(&state));
  return std::optional<DurableState>(std::move(state));
}

absl::Status SqliteStateStore::CheckNotNewer(const DurableState& state) {
  Statement row(db_, "SELECT term, epoch FROM cluster");
  const int code = row.Step();
  if (code == SQLITE_DONE) return absl::OkStatus();
  if (code != SQLITE_ROW) return Error("reading the epoch");
  if (row.Integer(0) <= state.term && row.Integer(1) <= state.epoch.value()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "coordinator store ", path_, " holds term ", row.Integer(0), " epoch ", row.Integer(1),
      ", newer than term ", state.term, " epoch ", state.epoch.value(), " to be saved"));
}

absl::Status SqliteStateStore::WriteVersion(const DurableVersion& version) {
  const ModelSummary& model = version.model;
  {
    Statement insert(db_, "INSERT INTO version VALUES(?, ?, ?, ?, ?, ?, ?)");
    insert.Bind(model.compute_digest).Bind(model.model_version).Bind(model.name);
    insert.Bind(uint64_t{model.experts}).Bind(uint64_t{model.layers}).Bind(model.expert_bytes);
    if (version.active.has_value()) {
      insert.BindBlob(PlacementToProto(*version.active).SerializeAsString());
    }
    if (insert.Step() != SQLITE_DONE) return Error("saving the versions");
  }
  for (const MemberRecord& member : version.members) {
    Statement insert(db_, "INSERT INTO member VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    insert.Bind(member.id.value()).Bind(static_cast<uint64_t>(member.role)).Bind(member.address);
    insert.Bind(member.incarnation).Bind(member.zone).Bind(member.host);
    insert.Bind(uint64_t{member.pid}).Bind(member.memory_bytes);
    insert.Bind(uint64_t{member.draining ? 1u : 0u}).Bind(model.compute_digest);
    insert.Bind(uint64_t{member.speed});
    if (insert.Step() != SQLITE_DONE) return Error("saving the members");
  }
  return absl::OkStatus();
}

absl::Status SqliteStateStore::Write(const DurableState& state) {
  OCTET_RETURN_IF_ERROR(CheckNotNewer(state));
  OCTET_RETURN_IF_ERROR(
      Run("DELETE FROM cluster; DELETE FROM version; DELETE FROM member", "saving"));
  {
    Statement insert(db_, "INSERT INTO cluster VALUES(1, ?, ?, ?)");
    insert.Bind(state.term).Bind(state.epoch.value()).Bind(state.next_id);
    if (insert.Step() != SQLITE_DONE) return Error("saving the epoch");
  }
  for (const DurableVersion& version : state.versions) {
    OCTET_RETURN_IF_ERROR(WriteVersion(version));
  }
  return absl::OkStatus();
}

absl::Status SqliteStateStore::Save(const DurableState& state) {
  OCTET_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE", "saving"));
  absl::Status status = Write(state);
  if (status.ok()) status = Run("COMMIT", "saving");
  // Some failures have rolled back already; then this does nothing.
  if (!status.ok()) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateStore>> OpenSqliteStateStore(const std::string& path) {
  // Made here first, because SQLite would use the umask; its side files copy this mode.
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  const bool usable = fd >= 0 && fchmod(fd, 0600) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!usable) {
    return absl::UnavailableError(
        absl::StrCat("cannot open coordinator store ", path, ": ", std::strerror(error)));
  }
  sqlite3* db = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
  const int code = sqlite3_open_v2(path.c_str(), &db, flags, nullptr);
  if (code != SQLITE_OK) {
    const std::string why = db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db);
    sqlite3_close(db);
    return absl::UnavailableError(absl::StrCat("cannot open coordinator store ", path, ": ", why));
  }
  auto store = std::make_unique<SqliteStateStore>(path, db);
  OCTET_RETURN_IF_ERROR(store->Prepare());
  return std::unique_ptr<StateStore>(std::move(store));
}

}  // namespace octet
