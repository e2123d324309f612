// Files embedded when moray is built (see CMakeLists.txt): the report's page and Debian's dygraphs.
#pragma once

#include <string_view>

namespace moray::assets {

extern const std::string_view report_css;
extern const std::string_view report_js;
extern const std::string_view dygraph_css;
extern const std::string_view dygraph_js;
extern const std::string_view synchronizer_js;

}  // namespace moray::assets
