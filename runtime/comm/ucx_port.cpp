#include "runtime/comm/ucx_port.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "runtime/base/log.h"

namespace penstock {
namespace {

constexpr unsigned kDataMessage = 1;
constexpr unsigned kControlMessage = 2;
// How far ahead of what was delivered a message number may be; a larger one is nonsense.
constexpr uint64_t kWindow = uint64_t{1} << 20;
constexpr std::chrono::milliseconds kCloseDeadline{500};

}  // namespace

/// One send or one rendezvous receive that UCX works on. UCX reads the header until the send ends, so it
/// lives here.
struct UcxPort::Operation {
  UcxPort* port = nullptr;
  Peer* peer = nullptr;
  std::list<Operation>::iterator self;
  Header header{};
  std::string payload;  // of a control message sent
  ConstBytes message;
  CompletionPtr completion;  // null for control messages
  std::function<void()> received;
};

UcxPort::UcxPort(int rank, int size, bool one_machine, Events events)
    : rank_(rank),
      events_(std::move(events)),
      peers_(static_cast<size_t>(size)),
      context_(one_machine),
      worker_(context_),
      loop_(worker_, [this](const std::string& why) { events_.broken(why); }) {
  for (int r = 0; r < size; ++r) {
    peers_[static_cast<size_t>(r)].port = this;
    peers_[static_cast<size_t>(r)].rank = r;
  }
  handle(kDataMessage, &UcxPort::on_data);
  handle(kControlMessage, &UcxPort::on_control);
}

UcxPort::~UcxPort() {
  loop_.stop();
  shut({"This rank has left the world.", ExitStatus::runtime_failure, rank_});
}

void UcxPort::handle(unsigned id, ucp_am_recv_callback_t callback) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = this;
  check_ucx(ucp_worker_set_am_recv_handler(worker_.get(), &params), "setting a message handler");
}

void UcxPort::connect(std::vector<Place> places) {
  ensure(places.size() == peers_.size(), "a place per rank");
  places_ = std::move(places);
  loop_.start();
}

UcxPort::Peer& UcxPort::peer(int rank) {
  ensure(rank >= 0 && static_cast<size_t>(rank) < peers_.size(), "a rank outside this world");
  return peers_[static_cast<size_t>(rank)];
}

// Endpoints are made at first use: a rank of a long chain talks to its neighbours and to rank 0.
bool UcxPort::connected(Peer& peer) {
  if (peer.lost) return false;
  if (peer.endpoint != nullptr) return true;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  const Place& place = places_[static_cast<size_t>(peer.rank)];
  params.address = reinterpret_cast<const ucp_address_t*>(place.address.data());
  // With error handling UCX leaves shared memory out and takes TCP even between neighbours; the death of a
  // neighbour is seen by its pid.
  params.err_mode = place.near ? UCP_ERR_HANDLING_MODE_NONE : UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxPort::on_endpoint_error;
  params.err_handler.arg = &peer;
  const ucs_status_t status = ucp_ep_create(worker_.get(), &params, &peer.endpoint);
  if (status == UCS_OK) return true;
  peer.endpoint = nullptr;
  lose(peer, std::string("it cannot be connected to (") + ucs_status_string(status) + ")");
  return false;
}

void UcxPort::send(int to, ConstBytes message, CompletionPtr sent) {
  Peer& receiver = peer(to);
  loop_.post([this, &receiver, message, sent = std::move(sent)]() mutable {
    if (shut_) return sent->fail(*shut_);
    Operation& operation = operations_.emplace_back();
    operation.self = std::prev(operations_.end());
    operation.peer = &receiver;
    operation.message = message;
    operation.completion = std::move(sent);
    operation.header.sequence = receiver.data_sent++;
    start_send(kDataMessage, operation);
  });
}

void UcxPort::send_control(int to, uint32_t kind, std::string payload) {
  if (payload.size() > kControlLimit) {
    throw Error("A control message for rank " + std::to_string(to) + " has " +
                std::to_string(payload.size()) + " bytes; at most " + std::to_string(kControlLimit) +
                " can be sent.");
  }
  Peer& receiver = peer(to);
  loop_.post([this, &receiver, kind, payload = std::move(payload)]() mutable {
    if (shut_) return;
    Operation& operation = operations_.emplace_back();
    operation.self = std::prev(operations_.end());
    operation.peer = &receiver;
    operation.payload = std::move(payload);
    operation.message = std::as_bytes(std::span(operation.payload));
    operation.header.kind = kind;
    operation.header.sequence = receiver.control_sent++;
    start_send(kControlMessage, operation);
  });
}

void UcxPort::start_send(unsigned id, Operation& operation) {
  operation.port = this;
  operation.header.from = static_cast<uint32_t>(rank_);
  operation.header.length = operation.message.size();
  if (!connected(*operation.peer)) return end(operation, UCS_ERR_CONNECTION_RESET);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &UcxPort::on_sent;
  params.user_data = &operation;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(operation.peer->endpoint, id, &operation.header, sizeof(Header),
                      operation.message.data(), operation.message.size(), &params);
  if (!UCS_PTR_IS_PTR(request)) end(operation, UCS_PTR_STATUS(request));
}

void UcxPort::on_sent(void* request, ucs_status_t status, void* operation) noexcept {
  ucp_request_free(request);
  auto& ended = *static_cast<Operation*>(operation);
  ended.port->end(ended, status);
}

void UcxPort::end(Operation& operation, ucs_status_t status) {
  Peer& peer = *operation.peer;
  if (status == UCS_OK) {
    if (operation.completion) operation.completion->complete();
    if (operation.received) operation.received();
  } else if (operation.completion) {
    // The buffer is UCX's no longer, but what the waiter is told is why the world ended.
    broken_off_.push_back(operation.completion);
    if (shut_) operation.completion->fail(*shut_);
  }
  operations_.erase(operation.self);
  if (status != UCS_OK) lose(peer, std::string("its connection broke (") + ucs_status_string(status) + ")");
}

void UcxPort::lose(Peer& peer, const std::string& why) {
  if (shut_ || std::exchange(peer.lost, true)) return;
  events_.lost(peer.rank, why);
}

void UcxPort::on_endpoint_error(void* peer, ucp_ep_h, ucs_status_t status) noexcept {
  auto& lost = *static_cast<Peer*>(peer);
  lost.port->lose(lost, std::string("its connection broke (") + ucs_status_string(status) + ")");
}

UcxPort::Peer* UcxPort::sender_of(const void* header, size_t header_length, size_t length, Header& parsed) {
  if (header_length == sizeof(Header)) {
    std::memcpy(&parsed, header, sizeof(Header));
    if (parsed.from < peers_.size() && parsed.length == length) return &peers_[parsed.from];
  }
  log::warning("A message of " + std::to_string(length) +
               " bytes that no rank of this world can have sent was dropped.");
  return nullptr;
}

ucs_status_t UcxPort::on_data(void* port_pointer, const void* header_bytes, size_t header_length, void* data,
                              size_t length, const ucp_am_recv_param_t* param) noexcept {
  auto& port = *static_cast<UcxPort*>(port_pointer);
  Header header{};
  Peer* from = port.sender_of(header_bytes, header_length, length, header);
  if (port.shut_ || from == nullptr) return UCS_OK;
  if (header.sequence < from->data_matched || header.sequence - from->data_matched > kWindow ||
      from->arrived.count(header.sequence) != 0) {
    port.lose(*from, "it sent a data message out of all order");
    return UCS_OK;
  }
  Arrived& arrived = from->arrived[header.sequence];
  arrived.length = length;
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  const auto posted = from->posted.find(header.sequence);
  if (rendezvous) {
    arrived.rendezvous = data;
  } else if (posted != from->posted.end() && posted->second.buffer.size() == length) {
    // The usual case, without the copy in between.
    if (length != 0) std::memcpy(posted->second.buffer.data(), data, length);
    posted->second.completion->complete();
    from->posted.erase(posted);
    from->arrived.erase(header.sequence);
    while (from->data_matched < from->data_posted && from->posted.count(from->data_matched) == 0)
      ++from->data_matched;
    return UCS_OK;
  } else {
    const auto* bytes = static_cast<const std::byte*>(data);
    arrived.eager.assign(bytes, bytes + length);
  }
  port.match(*from, header.sequence);
  return rendezvous ? UCS_INPROGRESS : UCS_OK;
}

void UcxPort::receive(int from, Bytes buffer, CompletionPtr received) {
  Peer& sender = peer(from);
  loop_.post([this, &sender, buffer, received = std::move(received)]() mutable {
    if (shut_) return received->fail(*shut_);
    const uint64_t sequence = sender.data_posted++;
    sender.posted[sequence] = {buffer, std::move(received)};
    match(sender, sequence);
  });
}

void UcxPort::match(Peer& from, uint64_t sequence) {
  const auto posted = from.posted.find(sequence);
  const auto arrived = from.arrived.find(sequence);
  if (posted == from.posted.end() || arrived == from.arrived.end()) return;
  const Bytes buffer = posted->second.buffer;
  const CompletionPtr completion = std::move(posted->second.completion);
  const Arrived message = std::move(arrived->second);
  from.posted.erase(posted);
  from.arrived.erase(arrived);
  while (from.data_matched < from.data_posted && from.posted.count(from.data_matched) == 0)
    ++from.data_matched;

  if (message.length != buffer.size()) {
    if (message.rendezvous != nullptr) ucp_am_data_release(worker_.get(), message.rendezvous);
    return completion->fail(wrong_size(from.rank, buffer.size(), message.length));
  }
  if (message.rendezvous == nullptr) {
    if (message.length != 0) std::memcpy(buffer.data(), message.eager.data(), message.length);
    return completion->complete();
  }
  Operation& operation = operations_.emplace_back();
  operation.self = std::prev(operations_.end());
  operation.completion = completion;
  start_receive(from, message.rendezvous, buffer, operation);
}

void UcxPort::start_receive(Peer& from, void* rendezvous, Bytes buffer, Operation& operation) {
  operation.port = this;
  operation.peer = &from;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.recv_am = &UcxPort::on_received;
  params.user_data = &operation;
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker_.get(), rendezvous, buffer.data(), buffer.size(), &params);
  if (!UCS_PTR_IS_PTR(request)) end(operation, UCS_PTR_STATUS(request));
}

void UcxPort::on_received(void* request, ucs_status_t status, size_t, void* operation) noexcept {
  ucp_request_free(request);
  auto& ended = *static_cast<Operation*>(operation);
  ended.port->end(ended, status);
}

ucs_status_t UcxPort::on_control(void* port_pointer, const void* header_bytes, size_t header_length,
                                 void* data, size_t length, const ucp_am_recv_param_t* param) noexcept {
  auto& port = *static_cast<UcxPort*>(port_pointer);
  Header header{};
  Peer* from = port.sender_of(header_bytes, header_length, length, header);
  if (port.shut_ || from == nullptr) return UCS_OK;
  if (length > kControlLimit || header.sequence < from->control_delivered ||
      header.sequence - from->control_delivered > kWindow || from->letters.count(header.sequence) != 0) {
    port.lose(*from, "it sent a control message of " + std::to_string(length) +
                         " bytes out of all order or too long");
    return UCS_OK;
  }
  Letter& letter = from->letters[header.sequence];
  letter.kind = header.kind;
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  if (rendezvous) {
    letter.payload.resize(length);
    Operation& operation = port.operations_.emplace_back();
    operation.self = std::prev(port.operations_.end());
    operation.received = [&port, from, &letter] {
      letter.complete = true;
      port.deliver_letters(*from);
    };
    port.start_receive(*from, data, std::as_writable_bytes(std::span(letter.payload)), operation);
    return UCS_INPROGRESS;
  }
  letter.payload.assign(static_cast<const char*>(data), length);
  letter.complete = true;
  port.deliver_letters(*from);
  return UCS_OK;
}

void UcxPort::deliver_letters(Peer& from) {
  while (!from.letters.empty() && from.letters.begin()->first == from.control_delivered &&
         from.letters.begin()->second.complete) {
    Letter letter = std::move(from.letters.begin()->second);
    from.letters.erase(from.letters.begin());
    ++from.control_delivered;
    events_.control(from.rank, letter.kind, std::move(letter.payload));
  }
}

void UcxPort::shut(const Fault& fault) {
  if (shut_) return;
  shut_ = fault;
  for (Peer& peer : peers_) {
    for (auto& [sequence, message] : peer.arrived) {
      if (message.rendezvous != nullptr) ucp_am_data_release(worker_.get(), message.rendezvous);
    }
    peer.arrived.clear();
  }
  // Without the peer's consent: it may be gone. Ends every operation on the endpoint. UCX refuses this for
  // endpoints without error handling; those end with the worker.
  std::vector<ucs_status_ptr_t> closing;
  for (Peer& peer : peers_) {
    if (peer.endpoint == nullptr || places_[static_cast<size_t>(peer.rank)].near) continue;
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(peer.endpoint, nullptr), &params);
    if (UCS_PTR_IS_PTR(request)) closing.push_back(request);
  }
  const auto deadline = std::chrono::steady_clock::now() + kCloseDeadline;
  for (const ucs_status_ptr_t request : closing) {
    while (ucp_request_check_status(request) == UCS_INPROGRESS &&
           std::chrono::steady_clock::now() < deadline) {
      worker_.progress();
    }
    ucp_request_free(request);
  }
  loop_.rest();
  for (const Operation& operation : operations_) {
    if (operation.completion) operation.completion->fail(fault);
  }
  for (const CompletionPtr& completion : broken_off_) completion->fail(fault);
  broken_off_.clear();
  for (Peer& peer : peers_) {
    for (auto& [sequence, posted] : peer.posted) posted.completion->fail(fault);
    peer.posted.clear();
  }
}

}  // namespace penstock
