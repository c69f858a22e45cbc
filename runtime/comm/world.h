// The ranks of one job and the two planes between them. Two implementations: a loopback world (ranks are
// threads of one process; also the world of one rank without mpirun) and the MPI world (MPI starts and ends
// it, UCX carries both planes). Nothing here polls MPI while the job runs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/comm/channel.h"
#include "runtime/comm/stop_requests.h"

namespace penstock {

/// The job has failed, here or on another rank, and the one message about it is already in the log: whoever
/// catches this ends with status() and prints nothing.
class WorldAborted : public Error {
 public:
  WorldAborted(const std::string& message, ExitStatus status, int failed_rank, Where where = Where::here())
      : Error(message, status, where), failed_rank_(failed_rank) {}
  int failed_rank() const { return failed_rank_; }

 private:
  int failed_rank_;
};

/// Kinds of control messages; the payload of each is the protobuf message named beside it.
enum class ControlKind : uint16_t {
  plan = 1,          ///< penstock.proto.Plan, a replica's first stage to its other stages
  step_result = 2,   ///< penstock.proto.StepResult, a replica's last stage to its first
  stage_report = 3,  ///< penstock.proto.StageReport, every stage to rank 0 at the end
  finish = 4,        ///< empty, a replica's first stage to its other stages: no plan will follow
  live_report = 5,   ///< penstock.proto.StageReport, every stage to rank 0 while the job runs
  plan_request = 6,  ///< penstock.proto.PlanRequest, another replica's first stage to rank 0
  plan_reply = 7,    ///< penstock.proto.PlanReply, back
};

/// Different threads wait for different kinds of messages, each in a line of its own.
enum class Line {
  steps,     ///< plan, step_result, finish: the runner's
  planning,  ///< plan_request, plan_reply
  reports,   ///< stage_report
};

struct ControlMessage {
  int from = 0;
  ControlKind kind{};
  std::string payload;
};

/// Small messages between any two ranks. Ordered per pair of ranks. `send` may be called from any thread and
/// never blocks on the peer. Heartbeats, goodbye and abort notices travel here too, but are not seen by the
/// user.
class ControlPlane {
 public:
  virtual ~ControlPlane() = default;
  virtual void send(int to, ControlKind kind, std::string payload) = 0;
  /// The next message of that line for this rank, in order of arrival; sleeps until there is one. Any one
  /// thread at a time for each line. Throws WorldAborted when a peer has died or the world was aborted, with
  /// that peer's rank, host and reason.
  virtual ControlMessage receive(Line line = Line::steps) = 0;
  /// As receive from Line::steps, but returns false at once when none has arrived. Throws as receive does.
  virtual bool try_receive(ControlMessage& message) = 0;
  /// Live reports never reach `receive`, so that nobody has to wait for them: each is handed to `hear` on the
  /// thread that moves messages, one at a time, which must be quick. Without a hearer they are dropped. When
  /// this returns, the former hearer is not called any more.
  virtual void hear_live_reports(std::function<void(const ControlMessage&)> hear) = 0;
};

/// What a rank says of itself when the world agrees on something.
struct RankInfo {
  int rank = 0;
  std::string host;
  int64_t pid = 0;
};

class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// How many ranks of this world share this host.
  virtual int local_size() const = 0;
  virtual int local_rank() const = 0;
  virtual const RankInfo& info(int rank) const = 0;

  virtual ControlPlane& control() = 0;
  virtual std::unique_ptr<Sender> sender(int to) = 0;
  virtual std::unique_ptr<Receiver> receiver(int from) = 0;

  /// Everyone's text, by rank. Collective, start and end of a job only; one thread per rank. Has a deadline
  /// and names who is missing. A text has at most 32 MiB / size() bytes.
  virtual std::vector<std::string> gather_all(const std::string& mine) = 0;

  /// Asks for the job's end in good order: rank 0's stop_requests() are told. Any rank, any thread.
  virtual void request_stop(const std::string& reason) = 0;
  /// On rank 0: what any rank asked for.
  virtual StopRequests& stop_requests() = 0;

  /// When a rank of this host has died, ends the job in its name and returns true. For the handler of
  /// SIGTERM: mpirun sends that to everyone else when one rank dies, sooner than heartbeats would tell. True
  /// as well once this rank has finished, when peers may be gone and there is nothing to tell. Any thread.
  virtual bool report_lost_peer() noexcept = 0;

  /// Ends the job as failed: logs the reason once for the whole world (the first failure wins, later ones are
  /// silent), and makes every wait of every rank throw WorldAborted with that reason and `status`. Returns
  /// when the others have been told, or could not be within some three seconds. Any thread. Under MPI every
  /// process of the world ends by itself within two seconds more, even if its threads never wait.
  virtual void abort(const std::string& reason, ExitStatus status = ExitStatus::runtime_failure) noexcept = 0;

  /// The job has succeeded on this rank: returns when every rank has said so. Collective, the last call on a
  /// world, never after a failure. A world destroyed without it counts as failed.
  virtual void finish() = 0;
};

/// `size` ranks inside this process; element r is for the thread that plays rank r.
std::vector<std::unique_ptr<World>> make_loopback_world(int size);

struct MpiOptions {
  double init_deadline_seconds = 60;
  /// Silence after which a peer counts as dead. A process that is gone or a connection that breaks is noticed
  /// within a second or two; this is for a host that vanishes, and long enough for a machine that stalls.
  double peer_deadline_seconds = 10;
  /// How long the ranks wait for each other where they all meet; weights may load for minutes.
  double gather_deadline_seconds = 1800;
};
/// True when a launcher (mpirun, srun) started this process together with others, by what the environment
/// says.
bool launched_by_mpi();
/// Starts MPI and UCX, once per process and from its main thread. Throws UsageError when the launcher started
/// several processes of which MPI sees one (wrong --mpi). A world that does not form before the deadline ends
/// the process with status 1 and a message that names who is missing. Sets the log's identity. Senders,
/// receivers and the control plane must not outlive the world.
std::unique_ptr<World> make_mpi_world(const MpiOptions& options);

}  // namespace penstock
