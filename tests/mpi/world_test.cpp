// The MPI world from outside: starts world_program under mpirun, kills ranks, and reads what comes out.
// Compile with WORLD_PROGRAM = path of that program.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// For a job to start and end; no promise. mpirun alone takes 10 s where the host's own name is in no
// /etc/hosts and no name server answers.
constexpr auto kPatience = 60s;

/// A command with extra environment, its output in a file.
class Job {
 public:
  explicit Job(const std::vector<std::string>& command, const std::vector<std::string>& environment = {}) {
    char name[] = "/tmp/penstock-world-test-XXXXXX";
    const int output = mkstemp(name);
    path_ = name;
    std::vector<std::string> words{"env"};
    words.insert(words.end(), environment.begin(), environment.end());
    words.insert(words.end(), command.begin(), command.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawn_file_actions_adddup2(&actions, output, 2);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    EXPECT_EQ(posix_spawnp(&pid_, "env", &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(output);
  }
  ~Job() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    unlink(path_.c_str());
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  std::string output() const {
    std::stringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }

  /// The exit status, 128 + signal, or -1 when it still runs after the limit.
  int wait(std::chrono::milliseconds limit) {
    const auto deadline = Clock::now() + limit;
    while (Clock::now() < deadline) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      }
      std::this_thread::sleep_for(5ms);
    }
    return -1;
  }

  pid_t pid() const { return pid_; }

  /// Pids by rank, as world_program prints them; empty when they do not all appear in time.
  std::map<int, pid_t> wait_for_ranks(size_t ranks) const {
    const std::regex line("rank (\\d+) pid (\\d+)");
    for (const auto deadline = Clock::now() + kPatience; Clock::now() < deadline;
         std::this_thread::sleep_for(10ms)) {
      std::map<int, pid_t> pids;
      const std::string text = output();
      for (std::sregex_iterator at(text.begin(), text.end(), line), end; at != end; ++at) {
        pids[std::stoi((*at)[1])] = std::stoi((*at)[2]);
      }
      if (pids.size() == ranks) return pids;
    }
    return {};
  }

 private:
  pid_t pid_ = -1;
  std::string path_;
};

std::vector<std::string> mpirun(int ranks, const std::string& part) {
  return {"mpirun", "--oversubscribe", "--bind-to", "none", "-n", std::to_string(ranks), WORLD_PROGRAM, part};
}

const std::vector<std::string> kEnvironment{"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};

std::vector<std::string> with(std::vector<std::string> more) {
  more.insert(more.end(), kEnvironment.begin(), kEnvironment.end());
  return more;
}

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++found;
  return found;
}

/// Gone, or a zombie that its parent has not reaped yet.
bool ended(pid_t pid) {
  std::string stat;
  std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/stat"), stat);
  return stat.empty() || stat.find(") Z") != std::string::npos;
}

class World : public testing::TestWithParam<int> {};

TEST_P(World, ControlMessagesAndGatheringReachEveryRank) {
  Job job(mpirun(GetParam(), "chat"), kEnvironment);
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
  EXPECT_EQ(job.output(), "chat ok\n") << "and nothing else is said";
}

TEST_P(World, ARingWith64MessagesInFlightDoesNotHang) {
  Job job(mpirun(GetParam(), "ring"), kEnvironment);
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
}

TEST_P(World, TheRingWorksOverTcpToo) {
  Job job(mpirun(GetParam(), "ring"), with({"UCX_TLS=tcp,self"}));
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
}

INSTANTIATE_TEST_SUITE_P(Ranks, World, testing::Values(2, 4),
                         [](const auto& test) { return std::to_string(test.param); });

TEST(WorldAtRest, ARankThatOnlyWaitsUsesUnderTwoPercentOfACore) {
  Job job(mpirun(4, "idle"), kEnvironment);
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
  const std::string text = job.output();
  const std::regex line("idle rank \\d: ([0-9.]+) %");
  int ranks = 0;
  for (std::sregex_iterator at(text.begin(), text.end(), line), end; at != end; ++at, ++ranks) {
    EXPECT_LT(std::stod((*at)[1]), 2.0) << text;
  }
  EXPECT_EQ(ranks, 4) << text;
}

TEST(WorldFailure, AFailureIsSaidOnceAndEveryRankEndsWithItsStatus) {
  for (const auto& [part, status] : std::map<std::string, int>{{"fail", 1}, {"refuse", 2}}) {
    Job job(mpirun(4, part), kEnvironment);
    EXPECT_EQ(job.wait(kPatience), status) << job.output();
    EXPECT_EQ(count(job.output(), "the tensor x has the wrong shape"), 1U) << job.output();
    EXPECT_NE(job.output().find("rank 3"), std::string::npos) << job.output();
  }
}

TEST(WorldFailure, WhatEveryRankFindsWrongIsSaidOnce) {
  Job job(mpirun(4, "all-refuse"), kEnvironment);
  EXPECT_EQ(job.wait(kPatience), 2) << job.output();
  EXPECT_EQ(count(job.output(), "there is no model here"), 1U) << job.output();
}

TEST(WorldFailure, AKilledRankEndsTheJobWithinFiveSecondsAndIsNamed) {
  for (int victim = 0; victim < 4; ++victim) {
    for (const char* transports : {"UCX_TLS=posix,self", "UCX_TLS=tcp,self"}) {
      Job job(mpirun(4, "wait"), with({transports}));
      const auto pids = job.wait_for_ranks(4);
      ASSERT_EQ(pids.size(), 4U) << job.output();
      const auto start = Clock::now();
      kill(pids.at(victim), SIGKILL);
      EXPECT_GT(job.wait(5s), 0) << job.output();
      EXPECT_LT(Clock::now() - start, 5s);
      const std::string named = "rank " + std::to_string(victim) + " (host ";
      EXPECT_EQ(count(job.output(), " died: "), 1U) << job.output();
      EXPECT_EQ(count(job.output(), named), 1U) << job.output();
      for (const auto& [rank, pid] : pids) {
        while (!ended(pid) && Clock::now() - start < 5s) std::this_thread::sleep_for(10ms);
        EXPECT_TRUE(ended(pid)) << "rank " << rank << " is left over";
      }
    }
  }
}

// Without a launcher that ends the others: they find out by themselves.
TEST(WorldFailure, AKilledRankIsNoticedWithoutTheHelpOfMpirun) {
  Job job(mpirun(4, "wait"), kEnvironment);
  const auto pids = job.wait_for_ranks(4);
  ASSERT_EQ(pids.size(), 4U) << job.output();
  kill(job.pid(), SIGSTOP);
  const auto start = Clock::now();
  kill(pids.at(2), SIGKILL);
  size_t left = 4;
  while (left != 0 && Clock::now() - start < 5s) {
    std::this_thread::sleep_for(20ms);
    left = 0;
    for (const auto& [rank, pid] : pids) left += ended(pid) ? 0 : 1;
  }
  EXPECT_EQ(left, 0U);
  EXPECT_LT(Clock::now() - start, 5s);
  std::printf("all ended after %.1f s\n", std::chrono::duration<double>(Clock::now() - start).count());
  kill(job.pid(), SIGCONT);
  EXPECT_GT(job.wait(kPatience), 0);
  EXPECT_EQ(count(job.output(), "rank 2 (host "), 1U) << job.output();
}

TEST(WorldFailure, ARankThatLeavesWithoutFinishingIsNamed) {
  Job job(mpirun(4, "leave"), kEnvironment);
  EXPECT_GT(job.wait(kPatience), 0) << job.output();
  EXPECT_EQ(count(job.output(), "rank 1 (host "), 1U) << job.output();
}

TEST(WorldEnd, RanksThatLeaveOneAfterAnotherAreNotCalledDead) {
  Job job(mpirun(4, "stop"), kEnvironment);
  EXPECT_EQ(job.wait(kPatience), 75) << job.output();
  EXPECT_EQ(count(job.output(), " died: "), 0U) << job.output();
}

TEST(WorldStart, ARankThatNeverArrivesIsNamed) {
  Job job({"mpirun", "--oversubscribe", "--bind-to", "none", "-n", "4", "sh", "-c",
           "[ $OMPI_COMM_WORLD_RANK = 2 ] && exec sleep 30; exec " WORLD_PROGRAM " chat"},
          with({"WORLD_DEADLINE=1"}));
  EXPECT_EQ(job.wait(kPatience), 1) << job.output();
  EXPECT_EQ(count(job.output(), "rank 2 of host"), 1U) << job.output();
  EXPECT_EQ(count(job.output(), "has not formed"), 1U) << job.output();
}

TEST(WorldStart, ARankThatDoesNotComeToAGatheringIsNamed) {
  Job job(mpirun(4, "skip-gather"), with({"WORLD_DEADLINE=1"}));
  EXPECT_EQ(job.wait(kPatience), 1) << job.output();
  EXPECT_EQ(count(job.output(), "for rank 1 to come"), 1U) << job.output();
}

TEST(WorldStart, SingletonsUnderSlurmAreRefusedWithTheReason) {
  for (const char* rank : {"0", "3"}) {
    Job job({WORLD_PROGRAM, "chat"}, {"SLURM_NTASKS=4", std::string("SLURM_PROCID=") + rank});
    EXPECT_EQ(job.wait(kPatience), 2) << job.output();
    EXPECT_EQ(count(job.output(), "--mpi=pmix"), rank[0] == '0' ? 1U : 0U) << "said by rank 0 alone\n"
                                                                           << job.output();
  }
}

TEST(WorldStart, MpirunInsideASlurmAllocationIsNoSingleton) {
  Job job(mpirun(1, "chat"), with({"SLURM_NTASKS=4"}));
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
}

}  // namespace
