// Groups of settings that several commands share. Names, defaults and ranges stand here once.
#ifndef OCTET_CLI_SETTING_TABLE_H_
#define OCTET_CLI_SETTING_TABLE_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "cli/settings.h"

namespace octet {

// --config, --log-level.
std::vector<SettingSpec> GeneralSettings();
// --model, --cache-dir.
std::vector<SettingSpec> ModelSettings();
// How a source is packed: --experts, --attention, --group, --reply, --upcycle, --upcycle-seed.
std::vector<SettingSpec> PackSettings();
// --threads, --cpu-level, --cores, --numa-node.
std::vector<SettingSpec> ComputeSettings();
// How a worker checks its weights.
std::vector<SettingSpec> IntegritySettings();
// --device.
std::vector<SettingSpec> DeviceSettings();
// KV cache and scheduler.
std::vector<SettingSpec> EngineSettings();
// --server, --timeout-ms, --attempts.
std::vector<SettingSpec> ClientSettings();
// Sampling and stop conditions of one request.
std::vector<SettingSpec> SamplingSettingsGroup();
// A cluster role: --listen (with this default), --advertise, --drain-timeout-ms, hidden --ready-fd.
std::vector<SettingSpec> RoleSettings(const std::string& listen);
// A member of a cluster: --coordinator, --zone, --host.
std::vector<SettingSpec> MemberSettings();
// How routers and workers reach each other: --transport, --nccl-device, --shm-dir.
std::vector<SettingSpec> TransportSettings();

SettingSpec StringSetting(const std::string& name, const std::string& fallback,
                          const std::string& help, const std::string& group);
SettingSpec IntSetting(const std::string& name, const std::string& fallback, double min, double max,
                       const std::string& help, const std::string& group);
SettingSpec FloatSetting(const std::string& name, const std::string& fallback, double min,
                         double max, const std::string& help, const std::string& group);
SettingSpec BoolSetting(const std::string& name, const std::string& help, const std::string& group);
SettingSpec ChoiceSetting(const std::string& name, const std::string& fallback,
                          const std::string& choices, const std::string& help,
                          const std::string& group);
// A setting that may also be given at place `place` without its flag.
SettingSpec Positional(SettingSpec spec, int place);

std::vector<SettingSpec> Join(std::initializer_list<std::vector<SettingSpec>> groups);

}  // namespace octet

#endif  // OCTET_CLI_SETTING_TABLE_H_
