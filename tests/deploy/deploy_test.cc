// What must hold for the Kubernetes manifests, checked without a cluster or network.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/process.h"
#include "yaml-cpp/yaml.h"

namespace octet {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kBase = fs::path(OCTET_SOURCE_DIR) / "deploy/kustomize/base";

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Every document of every manifest that the kustomization names, by "Kind/name".
std::map<std::string, YAML::Node> Manifests() {
  std::map<std::string, YAML::Node> manifests;
  const YAML::Node kustomization = YAML::LoadFile((kBase / "kustomization.yaml").string());
  for (const auto& resource : kustomization["resources"]) {
    for (const YAML::Node& node : YAML::LoadAllFromFile((kBase / resource.as<std::string>()))) {
      if (!node.IsMap()) continue;
      const std::string key =
          node["kind"].as<std::string>() + "/" + node["metadata"]["name"].as<std::string>();
      EXPECT_TRUE(manifests.emplace(key, node).second) << key << " is there twice";
    }
  }
  return manifests;
}

struct RoleManifest {
  const char* role;
  const char* key;
};
constexpr RoleManifest kRoles[] = {{"coordinator", "StatefulSet/octet-coordinator"},
                                   {"router", "Deployment/octet-router"},
                                   {"worker", "StatefulSet/octet-worker"}};

class DeployTest : public ::testing::TestWithParam<RoleManifest> {
 protected:
  void SetUp() override {
    const auto manifests = Manifests();
    ASSERT_EQ(manifests.count(GetParam().key), 1u) << GetParam().key;
    workload_ = manifests.at(GetParam().key);
    pod_ = workload_["spec"]["template"]["spec"];
    container_ = pod_["containers"][0];
  }
  YAML::Node Settings() const {
    return YAML::LoadFile((kBase / "settings" / (std::string(GetParam().role) + ".yaml")).string());
  }

  YAML::Node workload_;
  YAML::Node pod_;
  YAML::Node container_;
};

TEST_P(DeployTest, ProbesAskTheHealthServiceOnThePortServed) {
  const int port = container_["ports"][0]["containerPort"].as<int>();
  const std::string listen = Settings()["listen"].as<std::string>();
  EXPECT_EQ(listen, "0.0.0.0:" + std::to_string(port));
  for (const char* probe : {"startupProbe", "livenessProbe", "readinessProbe"}) {
    ASSERT_TRUE(container_[probe]["grpc"]) << probe;
    EXPECT_EQ(container_[probe]["grpc"]["port"].as<int>(), port) << probe;
  }
  // A process that waits for others must not be restarted for it.
  EXPECT_EQ(container_["livenessProbe"]["grpc"]["service"].as<std::string>(), "liveness");
  EXPECT_FALSE(container_["readinessProbe"]["grpc"]["service"]);
}

TEST_P(DeployTest, RunsRestricted) {
  const YAML::Node pod = pod_["securityContext"];
  EXPECT_TRUE(pod["runAsNonRoot"].as<bool>());
  EXPECT_GT(pod["runAsUser"].as<int>(), 0);
  EXPECT_EQ(pod["seccompProfile"]["type"].as<std::string>(), "RuntimeDefault");
  const YAML::Node security = container_["securityContext"];
  EXPECT_FALSE(security["allowPrivilegeEscalation"].as<bool>());
  EXPECT_TRUE(security["readOnlyRootFilesystem"].as<bool>());
  EXPECT_EQ(security["capabilities"]["drop"][0].as<std::string>(), "ALL");
  EXPECT_FALSE(pod_["automountServiceAccountToken"].as<bool>());
  EXPECT_EQ(Manifests().count("ServiceAccount/" + pod_["serviceAccountName"].as<std::string>()),
            1u);
}

TEST_P(DeployTest, SelectsItsOwnPods) {
  const YAML::Node labels = workload_["spec"]["template"]["metadata"]["labels"];
  const std::string name = std::string("octet-") + GetParam().role;
  const auto manifests = Manifests();
  ASSERT_EQ(manifests.count("Service/" + name), 1u);
  const YAML::Node service = manifests.at("Service/" + name)["spec"];
  for (const YAML::Node& selector :
       {workload_["spec"]["selector"]["matchLabels"], service["selector"]}) {
    ASSERT_GT(selector.size(), 0u);
    for (const auto& entry : selector) {
      EXPECT_EQ(labels[entry.first.as<std::string>()].as<std::string>(""),
                entry.second.as<std::string>());
    }
  }
  EXPECT_EQ(service["ports"][0]["port"].as<int>(),
            container_["ports"][0]["containerPort"].as<int>());
}

TEST_P(DeployTest, GraceIsLongerThanTheDrain) {
  int drain_s = 0;
  if (const YAML::Node drain = Settings()["drain-timeout-ms"]) drain_s = drain.as<int>() / 1000;
  if (const YAML::Node stop = container_["lifecycle"]) {
    drain_s += stop["preStop"]["exec"]["command"][1].as<int>();
  }
  EXPECT_GT(pod_["terminationGracePeriodSeconds"].as<int>(), drain_s);
}

TEST_P(DeployTest, EveryMountHasItsVolume) {
  std::set<std::string> volumes;
  for (const auto& volume : pod_["volumes"]) volumes.insert(volume["name"].as<std::string>());
  for (const auto& claim : workload_["spec"]["volumeClaimTemplates"]) {
    volumes.insert(claim["metadata"]["name"].as<std::string>());
  }
  for (const auto& mount : container_["volumeMounts"]) {
    EXPECT_EQ(volumes.count(mount["name"].as<std::string>()), 1u) << mount["name"];
  }
}

TEST_P(DeployTest, SettingsAndEnvironmentAreFlagsOfTheRole) {
  const ProcessResult help = RunProcess({OctetBinary(), GetParam().role, "--help"}, 30'000);
  ASSERT_EQ(help.exit_code, 0) << help.stderr_text;
  for (const auto& entry : Settings()) {
    EXPECT_THAT(help.stdout_text, HasSubstr("--" + entry.first.as<std::string>() + " "));
  }
  for (const auto& variable : container_["env"]) {
    std::string name = variable["name"].as<std::string>();
    if (name.rfind("OCTET_", 0) != 0) continue;
    std::string flag = "--";
    for (char c : name.substr(6)) flag += c == '_' ? '-' : static_cast<char>(std::tolower(c));
    EXPECT_THAT(help.stdout_text, HasSubstr(flag + " ")) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Roles, DeployTest, ::testing::ValuesIn(kRoles),
                         [](const auto& info) { return std::string(info.param.role); });

TEST(Deploy, WorkersAreFoundBeforeTheyAreReadyAndStartTogether) {
  const auto manifests = Manifests();
  EXPECT_TRUE(manifests.at("Service/octet-worker")["spec"]["publishNotReadyAddresses"].as<bool>());
  EXPECT_EQ(manifests.at("Service/octet-worker")["spec"]["clusterIP"].as<std::string>(), "None");
  EXPECT_EQ(
      manifests.at("StatefulSet/octet-worker")["spec"]["podManagementPolicy"].as<std::string>(),
      "Parallel");
  EXPECT_GE(manifests.at("StatefulSet/octet-worker")["spec"]["replicas"].as<int>(), 2)
      << "replication needs two workers";
}

TEST(Deploy, MembersAreToldTheCoordinatorsService) {
  const auto manifests = Manifests();
  for (const char* role : {"router", "worker"}) {
    const YAML::Node settings =
        YAML::LoadFile((kBase / "settings" / (std::string(role) + ".yaml")).string());
    const std::string target = settings["coordinator"].as<std::string>();
    const std::string host = target.substr(0, target.find(':'));
    ASSERT_EQ(manifests.count("Service/" + host), 1u) << target;
    EXPECT_EQ(target.substr(target.find(':') + 1),
              manifests.at("Service/" + host)["spec"]["ports"][0]["port"].as<std::string>());
  }
}

TEST(Deploy, ImageRunsAsTheUserOfTheManifests) {
  const std::string dockerfile = ReadFile(fs::path(OCTET_SOURCE_DIR) / "deploy/docker/Dockerfile");
  const YAML::Node pod =
      Manifests().at("StatefulSet/octet-worker")["spec"]["template"]["spec"]["securityContext"];
  EXPECT_THAT(dockerfile, HasSubstr("USER " + pod["runAsUser"].as<std::string>() + ":"));
}

TEST(Deploy, KustomizeBuildsIt) {
  const ProcessResult probe = RunProcess({"kubectl", "version", "--client"}, 30'000);
  if (probe.exit_code != 0) GTEST_SKIP() << "not run: kubectl is not installed";
  const ProcessResult built = RunProcess({"kubectl", "kustomize", kBase.string()}, 60'000);
  ASSERT_EQ(built.exit_code, 0) << built.stderr_text;
  size_t documents = 0;
  for (const YAML::Node& node : YAML::LoadAll(built.stdout_text)) documents += node.IsMap() ? 1 : 0;
  // The generated ConfigMap comes on top.
  EXPECT_EQ(documents, Manifests().size() + 1);
}

}  // namespace
}  // namespace octet
