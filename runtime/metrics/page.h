// The live page: one HTML text without outside resources, which asks for its figures once a second.
#pragma once

#include <string>
#include <string_view>

#include "runtime/metrics/job_metrics.h"

namespace penstock {

/// runtime/metrics/page.html, as it was when the program was built.
std::string_view page_html();

/// What the page shows, as JSON; docs/formats.md. Bytes that are no UTF-8 become U+FFFD.
std::string page_state(const JobSnapshot& snapshot);

}  // namespace penstock
