// A rank's UCX end: both planes as active messages over one worker. Each message carries its sender, its
// number on that edge and its length, because UCX may deliver messages of different protocols in another
// order; the receiving end puts them back in order and checks the length before it writes anything.
//
// Memory: an eager message that comes before its receive is copied and kept, so what a receiver may hold is
// what its sender sends ahead: the runner posts receives ahead and sends at most the micro-batches in flight.
// A larger message stays with the sender (rendezvous) until its receive is posted.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/comm/ucx_handles.h"
#include "runtime/comm/ucx_loop.h"
#include "runtime/comm/waiting.h"

namespace penstock {

/// Longest control message, in bytes: what a rank believes of another's length field before it allocates.
constexpr size_t kControlLimit = size_t{64} << 20;

class UcxPort {
 public:
  /// Called on the loop's thread, inside UCX: they may send and post, not wait.
  struct Events {
    std::function<void(int from, uint32_t kind, std::string payload)> control;
    std::function<void(int peer, const std::string& why)>
        lost;                                            ///< the connection broke, or carried nonsense
    std::function<void(const std::string& why)> broken;  ///< UCX itself failed on this rank
  };

  UcxPort(int rank, int size, bool one_machine, Events events);
  ~UcxPort();
  UcxPort(const UcxPort&) = delete;
  UcxPort& operator=(const UcxPort&) = delete;

  std::string address() const { return worker_.address(); }
  UcxLoop& loop() { return loop_; }
  struct Place {
    std::string address;
    /// On this machine: reached through shared memory, whose end UCX does not notice. Both sides must say the
    /// same.
    bool near = false;
  };
  /// Where everyone is, by rank; then start the loop.
  void connect(std::vector<Place> places);

  // Any thread. The bytes stay alive until the completion ends.
  void send(int to, ConstBytes message, CompletionPtr sent);
  void receive(int from, Bytes buffer, CompletionPtr received);
  /// Throws Error for a payload above kControlLimit.
  void send_control(int to, uint32_t kind, std::string payload);

  /// Ends every connection at once and fails what was under way; after it no buffer is touched, because UCX
  /// is not called again before the destructor. Loop's thread, or any when the loop has stopped.
  void shut(const Fault& fault);

 private:
  struct Header {  // host byte order: the ranks of a world run one binary
    uint32_t from;
    uint32_t kind;
    uint64_t sequence;
    uint64_t length;
  };
  struct Operation;
  struct Posted {
    Bytes buffer;
    CompletionPtr completion;
  };
  struct Arrived {
    size_t length = 0;
    std::vector<std::byte> eager;
    void* rendezvous = nullptr;  ///< UCX's descriptor of a message still with its sender
  };
  struct Letter {  ///< a control message, perhaps still under way
    uint32_t kind = 0;
    std::string payload;
    bool complete = false;
  };
  struct Peer {
    UcxPort* port = nullptr;
    int rank = 0;
    ucp_ep_h endpoint = nullptr;
    bool lost = false;
    uint64_t data_sent = 0, data_posted = 0, data_matched = 0;
    uint64_t control_sent = 0, control_delivered = 0;
    std::map<uint64_t, Posted> posted;
    std::map<uint64_t, Arrived> arrived;
    std::map<uint64_t, Letter> letters;
  };

  // Called by UCX, which is C: no exception may leave them.
  static ucs_status_t on_data(void* port, const void* header, size_t header_length, void* data, size_t length,
                              const ucp_am_recv_param_t* param) noexcept;
  static ucs_status_t on_control(void* port, const void* header, size_t header_length, void* data,
                                 size_t length, const ucp_am_recv_param_t* param) noexcept;
  static void on_sent(void* request, ucs_status_t status, void* operation) noexcept;
  static void on_received(void* request, ucs_status_t status, size_t length, void* operation) noexcept;
  static void on_endpoint_error(void* peer, ucp_ep_h endpoint, ucs_status_t status) noexcept;

  void handle(unsigned id, ucp_am_recv_callback_t callback);
  Peer& peer(int rank);
  /// The sender of a well-formed header, or null.
  Peer* sender_of(const void* header, size_t header_length, size_t length, Header& parsed);
  bool connected(Peer& peer);
  void start_send(unsigned id, Operation& operation);
  void match(Peer& from, uint64_t sequence);
  void start_receive(Peer& from, void* rendezvous, Bytes buffer, Operation& operation);
  void deliver_letters(Peer& from);
  void end(Operation& operation, ucs_status_t status);
  void lose(Peer& peer, const std::string& why);

  const int rank_;
  Events events_;
  std::vector<Peer> peers_;
  std::vector<Place> places_;
  std::list<Operation> operations_;        // handed to UCX; ends in on_sent or on_received
  std::vector<CompletionPtr> broken_off_;  // UCX gave up on them; they end when the world does
  std::optional<Fault> shut_;

  UcxContext context_;
  UcxWorker worker_;
  UcxLoop loop_;
};

}  // namespace penstock
