#include "launch/preflight.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "launch/agree.h"
#include "launch/preflight_checks.h"
#include "launch/rank_device.h"
#include "launch/rank_job.h"
#include "runtime/base/rng.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr size_t kMessage = size_t{1} << 20;
constexpr int kMessages = 16;
constexpr int kClockRounds = 9;
constexpr Seconds kEdgeDeadline{10};
constexpr Seconds kSharedFileDeadline{5};  // a file server's clients may see a new file late

std::string reason() {
  return std::error_code(errno, std::generic_category()).message();
}

std::vector<std::string> names_of(const World& world) {
  std::vector<std::string> names;
  for (int r = 0; r < world.size(); ++r)
    names.push_back("rank " + std::to_string(r) + " (" + world.info(r).host + ")");
  return names;
}

std::vector<Finding> gather_findings(World& world, const Finding& mine) {
  std::vector<Finding> findings;
  for (const std::string& text : world.gather_all((mine.good ? "1" : "0") + mine.text))
    findings.push_back({text.front() == '1', text.substr(1)});
  return findings;
}

/// As text: what `look` returns, or the message of what it throws.
Finding found(const std::function<std::string()>& look) {
  try {
    return {true, look()};
  } catch (const std::exception& e) {
    return {false, e.what()};
  }
}

Check everywhere(World& world, const std::string& name, const std::function<std::string()>& look) {
  return check_same_everywhere(name, names_of(world), gather_findings(world, found(look)));
}

// ---- the wires ----

/// When the other rank stays silent, ends the world before the buffer is given up.
void await(World& world, Transfer& transfer, const std::string& what) {
  const auto begin = Clock::now();
  while (!transfer.done() && Clock::now() - begin < kEdgeDeadline)
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  if (!transfer.done())
    world.abort(
        "preflight: " + what + " within " + std::to_string(static_cast<int>(kEdgeDeadline.count())) +
        " s. Check the network between the two hosts, their firewalls, and UCX_NET_DEVICES and UCX_TLS, "
        "which choose the interface and the transport");
  transfer.wait();
}

std::byte pattern(int rank, size_t i) {
  return static_cast<std::byte>((i * 131 + static_cast<size_t>(rank) * 17) & 0xFF);
}

/// What came from the rank before: "1.9 GB/s". Every edge alone, one after the other.
std::string try_edges(World& world, const Layout& layout) {
  const std::vector<std::string> names = names_of(world);
  std::string mine;
  for (int from = 0; from + 1 < world.size(); ++from) {
    if (!layout.has_edge_from(from)) continue;
    const std::string edge = names[static_cast<size_t>(from)] + " -> " + names[static_cast<size_t>(from) + 1];
    if (from == world.rank()) {
      std::vector<std::byte> message(kMessage);
      for (size_t i = 0; i < kMessage; ++i) message[i] = pattern(from, i);
      const auto sender = world.sender(from + 1);
      for (int m = 0; m < kMessages; ++m)
        await(world, *sender->send(message), edge + ": nothing could be sent");
    } else if (from + 1 == world.rank()) {
      std::vector<std::byte> message(kMessage);
      const auto receiver = world.receiver(from);
      Clock::time_point first;
      for (int m = 0; m < kMessages; ++m) {
        await(world, *receiver->receive(message), edge + ": nothing arrived");
        if (m == 0) first = Clock::now();
        for (size_t i = m == 0 ? 0 : kMessage; i < kMessage; ++i)
          if (message[i] != pattern(from, i))
            throw Error("preflight: " + edge + ": byte " + std::to_string(i) + " arrived changed");
      }
      const double seconds = std::max(1e-9, Seconds(Clock::now() - first).count());
      mine =
          size_text(static_cast<uint64_t>((kMessages - 1) * static_cast<double>(kMessage) / seconds)) + "/s";
    }
    world.gather_all({});
  }
  ensure(layout.stage_of(world.rank()) == 0 || !mine.empty(), "an edge into every stage but the first");
  return mine;
}

Check check_edges(World& world, const Layout& layout) {
  const std::vector<std::string> rates = world.gather_all(try_edges(world, layout));
  if (world.size() == 1) return {"edges", true, "none: one rank"};
  if (layout.stages == 1) return {"edges", true, "none: each rank is a whole replica"};
  std::string text;
  for (int r = 1; r < world.size(); ++r)
    if (layout.stage_of(r) > 0)
      text += (text.empty() ? "" : ", ") + std::to_string(r - 1) + " -> " + std::to_string(r) + " " +
              rates[static_cast<size_t>(r)];
  return {"edges", true, text};
}

double wall_clock() {
  return Seconds(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// As NTP: rank 0 asks, the other answers with its time; of several rounds the quickest counts.
ClockOffset offset_of(World& world, int other) {
  double answer = 0;
  const std::span<double> one(&answer, 1);
  ClockOffset best{0, 1e9};
  const bool asks = world.rank() == 0;
  const int peer = asks ? other : 0;
  const auto sender = world.sender(peer);
  const auto receiver = world.receiver(peer);
  const std::string what = "rank 0 and rank " + std::to_string(other) + ": no answer";
  for (int round = 0; round < kClockRounds; ++round) {
    const double begin = wall_clock();
    if (asks) await(world, *sender->send(std::as_bytes(one)), what);
    await(world, *receiver->receive(std::as_writable_bytes(one)), what);
    if (!asks) {
      answer = wall_clock();
      await(world, *sender->send(std::as_bytes(one)), what);
      continue;
    }
    const double end = wall_clock();
    if ((end - begin) / 2 < best.error) best = {answer - (begin + end) / 2, (end - begin) / 2};
  }
  return best;
}

Check check_clocks(World& world) {
  std::vector<ClockOffset> offsets(static_cast<size_t>(world.size()));
  for (int r = 1; r < world.size(); ++r) {
    if (world.rank() == 0 || world.rank() == r) offsets[static_cast<size_t>(r)] = offset_of(world, r);
    world.gather_all({});
  }
  return check_clocks(names_of(world), offsets);
}

// ---- the files ----

std::string start_of_file(const fs::path& path, size_t most) {
  std::ifstream file(path, std::ios::binary);
  std::string text(most, '\0');
  file.read(text.data(), static_cast<std::streamsize>(most));
  if (file.bad() || !file.is_open()) throw Error(path.string() + " cannot be read: " + reason());
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

std::string hash_text(const std::string& bytes) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(stable_hash(bytes)));
  return text;
}

/// The folder's config.json and the names and sizes of what else lies there.
std::string model_facts(const fs::path& model) {
  uint64_t bytes = 0;
  std::set<std::string> files;
  std::error_code error;
  for (fs::directory_iterator it(model, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != ".safetensors" && it->path().extension() != ".json") continue;
    const uint64_t size = it->file_size(error);
    if (it->path().extension() == ".safetensors") bytes += size;
    files.insert(it->path().filename().string() + " " + std::to_string(size));
  }
  if (error) throw Error(model.string() + " cannot be read: " + error.message());
  std::string all = start_of_file(model / "config.json", size_t{1} << 20);
  for (const std::string& file : files) all += file;
  return size_text(bytes) + " of weights, " + std::to_string(files.size()) + " files, fingerprint " +
         hash_text(all);
}

std::string input_facts(const fs::path& input) {
  const std::string start = start_of_file(input, size_t{1} << 16);
  return size_text(fs::file_size(input)) + ", starts with " + hash_text(start);
}

/// A pipe or a device as output needs no folder and no space.
bool is_file(const fs::path& output) {
  std::error_code ignored;
  const fs::file_status status = fs::status(output, ignored);
  return !fs::exists(status) || fs::is_regular_file(status);
}

fs::path folder_of_output(const JobOptions& options) {
  const fs::path folder = options.output.parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

void write_probe(const fs::path& probe, const std::string& word) {
  std::ofstream file(probe, std::ios::binary);
  file << word;
  file.close();
  if (!file) throw Error("rank 0 cannot write there (" + probe.string() + "): " + reason());
}

/// The same folder on every rank, not one that only has the same name: what rank 0 writes, all read.
Check check_output(World& world, const JobOptions& options) {
  const RankInfo& writer = world.info(0);
  const std::string word = writer.host + " " + std::to_string(writer.pid);
  const fs::path probe = folder_of_output(options) / (".penstock-preflight." + std::to_string(writer.pid));
  const Finding written = found([&] {
    if (world.rank() == 0) write_probe(probe, word);
    return std::string();
  });
  const std::vector<Finding> writing = gather_findings(world, written);
  Check check{"output", false, writing[0].text};
  if (writing[0].good)
    check = everywhere(world, "output", [&] {
      const auto begin = Clock::now();
      for (;;) {
        const Finding read = found([&] { return start_of_file(probe, 4096); });
        if (read.good && read.text == word) return "written by rank 0, seen by all";
        if (Clock::now() - begin > kSharedFileDeadline)
          throw Error("does not see the file that rank 0 wrote to " + fs::absolute(probe).string() +
                      ": the folder is not shared with rank 0's host; a job that is started again may have "
                      "its rank 0 here");
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    });
  if (world.rank() == 0) {
    std::error_code ignored;
    fs::remove(probe, ignored);
  }
  return check;
}

uint64_t free_bytes(const fs::path& folder) {
  struct statvfs info {};
  if (statvfs(folder.c_str(), &info) != 0) throw Error(folder.string() + " cannot be looked at: " + reason());
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

Check check_space(World& world, const JobOptions& options) {
  const Finding mine = found([&] {
    if (world.rank() > 0) return std::string();
    return std::to_string(free_bytes(folder_of_output(options)));
  });
  const std::vector<Finding> all = gather_findings(world, mine);
  if (!all[0].good) return {"free space", false, all[0].text};
  std::error_code ignored;
  const bool regular = fs::is_regular_file(options.input, ignored);
  return check_free_space(std::stoull(all[0].text), regular ? fs::file_size(options.input, ignored) : 0);
}

// ---- the machines ----

Check check_locked_memory(World& world) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  std::error_code ignored;
  const fs::directory_iterator devices("/sys/class/infiniband", ignored);
  const Finding mine = judge_locked_memory(
      limit.rlim_cur == RLIM_INFINITY ? std::nullopt : std::optional<uint64_t>(limit.rlim_cur),
      !ignored && devices != fs::directory_iterator());
  return check_same_everywhere("locked memory", names_of(world), gather_findings(world, mine));
}

Check check_shared_memory(World& world) {
  std::vector<Finding> all =
      gather_findings(world, found([&] {
                        const Finding here = judge_shared_memory(free_bytes("/dev/shm"), world.local_size());
                        return here.good ? here.text : throw Error(here.text);
                      }));
  // What is free differs from host to host, and may.
  const std::string first = all[0].text;
  for (Finding& finding : all)
    if (finding.good && all[0].good) finding.text = first;
  return check_same_everywhere("shared memory", names_of(world), all);
}

std::string program_facts() {
  const fs::path self = "/proc/self/exe";
  std::ifstream file(self, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  if (!file) throw Error(self.string() + " cannot be read: " + reason());
  return "penstock " PENSTOCK_VERSION ", fingerprint " + hash_text(bytes.str());
}

/// Which rank does what where. When the job's shape cannot be worked out a check tells why, and `layout` is
/// one pipeline over all ranks.
std::string table_of_ranks(World& world, const JobOptions& options, Layout& layout, Check& check) {
  JobShape shape;
  layout = {1, world.size()};
  std::string part;
  std::string device;
  const Finding mine = found([&] {
    shape = shape_job(options, lay_out(options, world.size()), false);
    part = shape.cut_of(world.rank()).text();
    if (shape.layout.replicas > 1)
      part = "replica " + std::to_string(shape.layout.replica_of(world.rank())) + ": " + part;
    return shape.config.architecture + ", " + std::to_string(shape.config.layer_count()) + " layers in " +
           layout_text(shape.layout);
  });
  check = check_same_everywhere("job", names_of(world), gather_findings(world, mine));
  if (check.good) {
    layout = shape.layout;
    const Finding opened = found([&] { return open_device(world, shape.devices_by_rank()).device->name(); });
    if (!opened.good) check = {"job", false, opened.text};
    device = opened.text;
  }
  std::string table = "rank  host              cores  device                                    part\n";
  const std::vector<std::string> parts = world.gather_all(part);
  const std::vector<std::string> devices = world.gather_all(device);
  const std::vector<std::string> cores = world.gather_all(std::to_string(usable_cores()));
  for (size_t r = 0; r < parts.size(); ++r) {
    char line[256];
    std::snprintf(line, sizeof line, "%4zu  %-16.16s  %5s  %-40.40s  %s\n", r,
                  world.info(static_cast<int>(r)).host.c_str(), cores[r].c_str(), devices[r].c_str(),
                  parts[r].c_str());
    table += line;
  }
  return table;
}

}  // namespace

void preflight(World& world, const JobOptions& options) {
  std::set<std::string> hosts;
  for (int r = 0; r < world.size(); ++r) hosts.insert(world.info(r).host);
  std::vector<Check> checks{check_slurm(
      [](const char* name) {
        const char* value = std::getenv(name);
        return value == nullptr ? std::nullopt : std::optional<std::string>(value);
      },
      world.size(), static_cast<int>(hosts.size()))};
  checks.push_back(everywhere(world, "program", program_facts));
  Check job;
  Layout layout;
  const std::string ranks = table_of_ranks(world, options, layout, job);
  checks.push_back(job);
  checks.push_back(check_edges(world, layout));
  checks.push_back(everywhere(world, "model", [&] { return model_facts(options.model); }));
  if (options.input != "-")
    checks.push_back(everywhere(world, "input", [&] { return input_facts(options.input); }));
  // Rank 0 decides for all: the checks are taken together.
  if (world.gather_all(is_file(options.output) ? "file" : "")[0] == "file") {
    checks.push_back(check_output(world, options));
    checks.push_back(check_space(world, options));
  }
  checks.push_back(check_shared_memory(world));
  checks.push_back(check_locked_memory(world));
  checks.push_back(check_clocks(world));
  if (world.rank() == 0) {
    std::printf("%s\n%s", ranks.c_str(), table_of(checks).c_str());
    std::fflush(stdout);
  }
  agree(world, [&]() -> std::string {
    const std::string failed = failed_of(checks);
    if (world.rank() == 0 && !failed.empty())
      throw UsageError("preflight: " + failed + (failed.find(',') == std::string::npos ? " is" : " are") +
                       " not as the job needs; the table above says what was expected");
    return {};
  });
}

}  // namespace penstock
