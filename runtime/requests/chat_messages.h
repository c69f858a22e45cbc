// A conversation as a chat template wants it: what vLLM does between the request and apply_chat_template
// (vllm/entrypoints/chat_utils.py). Pure functions; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "runtime/requests/text/chat_template.h"

namespace penstock {

/// Does the template itself walk a message's content where that is a list of parts? Found by rendering one.
bool template_takes_parts(const ChatRenderer& chat);

/// Parts of text ({"type": "text", "text": ...}, or plain strings) become one text, joined by newlines,
/// unless `keep_parts`; the arguments of a tool call, which the API has as text, become what their JSON says.
/// Throws Error naming the message and what was found in it.
nlohmann::ordered_json prepared_messages(const nlohmann::ordered_json& messages, bool keep_parts);

}  // namespace penstock
