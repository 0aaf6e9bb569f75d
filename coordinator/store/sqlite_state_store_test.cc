#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "coordinator/store/state_store.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

class SqliteStateStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("octet_store_") +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    path_ = (dir_ / "state.db").string();
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<StateStore> Open() {
    auto store = OpenSqliteStateStore(path_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  std::filesystem::path dir_;
  std::string path_;
};

DurableState Sample(uint64_t term, uint64_t epoch, size_t workers = 2) {
  DurableState state;
  state.term = term;
  state.epoch = Epoch(epoch);
  DurableVersion version;
  version.model = ModelSummary{std::string(64, 'd'), "v2", "tiny", 3, 2, 12345};
  Placement placement;
  placement.epoch = Epoch(epoch);
  placement.compute_digest = version.model.compute_digest;
  placement.model_version = "v2";
  for (uint64_t id = 1; id <= workers; ++id) {
    MemberRecord member;
    member.id = MemberId(id);
    member.role = id % 2 == 1 ? MemberRole::kWorker : MemberRole::kRouter;
    member.address = "host:" + std::to_string(1000 + id);
    member.incarnation = UINT64_MAX - id;
    member.zone = "zone'; DROP TABLE member;--";
    member.host = "h";
    member.pid = 77;
    member.memory_bytes = UINT64_MAX;
    member.speed = 1 + static_cast<uint32_t>(id) % kWorkerSpeedMax;
    member.draining = id == 1;
    version.members.push_back(member);
  }
  placement.workers = {{WorkerId(1), "host:1001"}};
  placement.expert_replicas = {{WorkerId(1)}, {}, {WorkerId(1)}};
  version.active = placement;
  DurableVersion next;
  next.model = ModelSummary{std::string(64, 'e'), "v3", "tiny", 4, 2, 1};
  MemberRecord first;
  first.id = MemberId(workers + 1);
  first.address = "next:1";
  next.members = {first};
  state.next_id = workers + 2;
  state.versions = {version, next};
  return state;
}

void ExpectEqual(const DurableState& a, const DurableState& b) {
  EXPECT_EQ(a.term, b.term);
  EXPECT_EQ(a.epoch, b.epoch);
  EXPECT_EQ(a.next_id, b.next_id);
  ASSERT_EQ(a.versions.size(), b.versions.size());
  for (size_t i = 0; i < a.versions.size(); ++i) {
    const DurableVersion& of_a = a.versions[i];
    const DurableVersion& of_b = b.versions[i];
    EXPECT_EQ(of_a.model, of_b.model);
    EXPECT_TRUE(of_a.members == of_b.members);
    ASSERT_EQ(of_a.active.has_value(), of_b.active.has_value());
    if (!of_a.active.has_value()) continue;
    EXPECT_EQ(of_a.active->epoch, of_b.active->epoch);
    EXPECT_EQ(of_a.active->expert_replicas, of_b.active->expert_replicas);
  }
}

TEST_F(SqliteStateStoreTest, EmptyThenSavedThenReopened) {
  const DurableState state = Sample(3, 9);
  {
    auto store = Open();
    ASSERT_NE(store, nullptr);
    const auto empty = store->Load();
    ASSERT_TRUE(empty.ok());
    EXPECT_FALSE(empty->has_value());
    ASSERT_TRUE(store->Save(Sample(1, 1, 5)).ok());
    ASSERT_TRUE(store->Save(state).ok());
  }
  const auto loaded = Open()->Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->has_value());
  ExpectEqual(**loaded, state);
}

// As releases before speeds wrote it.
TEST_F(SqliteStateStoreTest, AStoreOfSchemaTwoIsConverted) {
  const DurableState state = Sample(3, 9);
  { ASSERT_TRUE(Open()->Save(state).ok()); }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "ALTER TABLE member DROP COLUMN speed; PRAGMA user_version = 2",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  DurableState expected = state;
  for (DurableVersion& version : expected.versions) {
    for (MemberRecord& member : version.members) member.speed = kWorkerSpeedEqual;
  }
  for (int opened = 0; opened < 2; ++opened) {
    const auto loaded = Open()->Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(loaded->has_value());
    ExpectEqual(**loaded, expected);
  }
  ASSERT_TRUE(Open()->Save(Sample(4, 10)).ok());
  ExpectEqual(**Open()->Load(), Sample(4, 10));
}

// As releases before several versions wrote it.
TEST_F(SqliteStateStoreTest, AStoreOfSchemaOneIsConverted) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  const std::string sql =
      "CREATE TABLE cluster(one INTEGER PRIMARY KEY CHECK(one = 1), term INTEGER NOT NULL,"
      " epoch INTEGER NOT NULL, next_id INTEGER NOT NULL, placement BLOB);"
      "CREATE TABLE model(one INTEGER PRIMARY KEY CHECK(one = 1), digest TEXT NOT NULL,"
      " version TEXT NOT NULL, name TEXT NOT NULL, experts INTEGER NOT NULL,"
      " layers INTEGER NOT NULL, expert_bytes INTEGER NOT NULL);"
      "CREATE TABLE member(id INTEGER PRIMARY KEY, role INTEGER NOT NULL, address TEXT NOT NULL,"
      " incarnation INTEGER NOT NULL, zone TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,"
      " memory_bytes INTEGER NOT NULL, draining INTEGER NOT NULL);"
      "INSERT INTO cluster VALUES(1, 7, 9, 5, NULL);"
      "INSERT INTO model VALUES(1, '" +
      std::string(64, 'c') +
      "', 'v1', 'old', 8, 2, 123);"
      "INSERT INTO member VALUES(3, 1, 'host:1', 77, 'z', 'h', 42, 0, 1);"
      "PRAGMA user_version = 1;";
  ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  for (int opened = 0; opened < 2; ++opened) {
    const auto loaded = Open()->Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_TRUE(loaded->has_value());
    EXPECT_EQ((**loaded).term, 7u);
    EXPECT_EQ((**loaded).epoch, Epoch(9));
    EXPECT_EQ((**loaded).next_id, 5u);
    ASSERT_EQ((**loaded).versions.size(), 1u);
    const DurableVersion& version = (**loaded).versions[0];
    EXPECT_EQ(version.model, (ModelSummary{std::string(64, 'c'), "v1", "old", 8, 2, 123}));
    EXPECT_FALSE(version.active.has_value());
    ASSERT_EQ(version.members.size(), 1u);
    EXPECT_EQ(version.members[0].id, MemberId(3));
    EXPECT_EQ(version.members[0].incarnation, 77u);
    EXPECT_TRUE(version.members[0].draining);
    EXPECT_EQ(version.members[0].speed, kWorkerSpeedEqual);
  }
  // It is written in the new form.
  EXPECT_TRUE(Open()->Save(Sample(8, 10)).ok());
}

TEST_F(SqliteStateStoreTest, FilesAreForTheOwnerAlone) {
  auto store = Open();
  ASSERT_TRUE(store->Save(Sample(1, 1)).ok());
  for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u) << entry.path();
  }
}

TEST_F(SqliteStateStoreTest, RefusesToGoBack) {
  auto store = Open();
  ASSERT_TRUE(store->Save(Sample(5, 9)).ok());
  EXPECT_EQ(store->Save(Sample(5, 8)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store->Save(Sample(4, 10)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((**store->Load()).epoch, Epoch(9));
}

TEST_F(SqliteStateStoreTest, ASecondOpenIsRefused) {
  auto store = Open();
  ASSERT_TRUE(store->Save(Sample(1, 1)).ok());
  const auto second = OpenSqliteStateStore(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another coordinator"));
}

TEST_F(SqliteStateStoreTest, GarbageIsDataLossAndNamesTheFile) {
  std::ofstream(path_) << std::string(8192, 'x');
  const auto store = OpenSqliteStateStore(path_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(path_));
}

TEST_F(SqliteStateStoreTest, ADamagedPageIsDataLoss) {
  { ASSERT_TRUE(Open()->Save(Sample(1, 1, 200)).ok()); }
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096);
    file << std::string(4096, '\xa5');
  }
  auto store = OpenSqliteStateStore(path_);
  const absl::Status status = store.ok() ? (*store)->Load().status() : store.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

// Every value of a valid file that does not make sense is refused with a reason.
TEST_F(SqliteStateStoreTest, NonsenseValuesAreDataLoss) {
  for (const char* sql :
       {"UPDATE member SET role = 9", "UPDATE member SET speed = 0",
        "UPDATE member SET speed = 1025", "UPDATE member SET id = 100 WHERE id = 1",
        "UPDATE version SET experts = 100000", "UPDATE version SET digest = digest || 'x'",
        "UPDATE version SET placement = x'ffff'", "UPDATE cluster SET epoch = 0",
        "UPDATE cluster SET term = -1", "DELETE FROM version", "DROP TABLE member",
        "PRAGMA user_version = 9"}) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    { ASSERT_TRUE(Open()->Save(Sample(1, 1)).ok()); }
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sql;
    sqlite3_close(db);
    auto store = OpenSqliteStateStore(path_);
    const absl::Status status = store.ok() ? (*store)->Load().status() : store.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << sql << ": " << status;
  }
}

TEST_F(SqliteStateStoreTest, AFullDiskIsSaidAndLosesNothing) {
  auto store = Open();
  const DurableState before = Sample(1, 1);
  ASSERT_TRUE(store->Save(before).ok());
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = 48 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = store->Save(Sample(2, 2, 1400));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  ExpectEqual(**store->Load(), before);
  EXPECT_TRUE(store->Save(Sample(2, 2, 1400)).ok());
}

TEST_F(SqliteStateStoreTest, AMissingFolderIsNamed) {
  const auto store = OpenSqliteStateStore((dir_ / "no" / "such.db").string());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("such.db"));
}

TEST(MemoryStateStore, ReturnsWhatWasSaved) {
  MemoryStateStore store;
  EXPECT_FALSE((*store.Load()).has_value());
  ASSERT_TRUE(store.Save(Sample(1, 2)).ok());
  ExpectEqual(**store.Load(), Sample(1, 2));
}

}  // namespace
}  // namespace octet
