# One target a folder: moray_folder(name DEPS ...) compiles every .cc of the folder into moray_<name>, and every
# x_test.cc into one test program <name>_test. Test suites whose names begin with Long run in a ctest test of their
# own, labelled long, which `make test` leaves out. A suite whose name begins with Needs is one test that a machine may
# lack something for: it is a ctest test too, so that ctest's summary says when it was skipped.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(GTest REQUIRED)

option(MORAY_ASAN "AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(MORAY_TSAN "ThreadSanitizer" OFF)
option(MORAY_FUZZ "libFuzzer targets of tests/fuzz, with AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
set(moray_test_suffix "")  # tells a test's builds apart in one summary
if(MORAY_ASAN)
  set(moray_test_suffix ".asan")
elseif(MORAY_TSAN)
  set(moray_test_suffix ".tsan")
endif()

add_library(moray_flags INTERFACE)
# -ffp-contract=off: the order of arithmetic is part of the result (docs/numerics.md); every fused multiply-add is explicit.
# x86-64-v2 is the baseline of everything outside the kernels, so that a machine without AVX2 can be told so in words.
target_compile_options(moray_flags INTERFACE -march=x86-64-v2 -maes -mpclmul -ffp-contract=off
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror -Wno-error=maybe-uninitialized -Wno-maybe-uninitialized)
target_include_directories(moray_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(moray_flags INTERFACE Threads::Threads)
if(MORAY_ASAN)
  target_compile_options(moray_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(moray_flags INTERFACE -fsanitize=address,undefined)
endif()
if(MORAY_FUZZ)
  # The tests are another compiler's business, and so are its warnings.
  target_compile_options(moray_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
    -fno-omit-frame-pointer -Wno-error)
  target_link_options(moray_flags INTERFACE -fsanitize=address,undefined)
endif()
if(MORAY_TSAN)
  target_compile_options(moray_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(moray_flags INTERFACE -fsanitize=thread)
endif()

# Packages from pkg-config as imported targets PkgConfig::X; their headers count as system headers.
function(moray_package target module)
  pkg_check_modules(${target} REQUIRED IMPORTED_TARGET GLOBAL ${module})
endfunction()

function(moray_folder name)
  cmake_parse_arguments(ARG "" "" "DEPS;PRIVATE;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  list(REMOVE_ITEM sources ${tests} "")
  if(sources)
    add_library(moray_${name} STATIC ${sources})
    target_link_libraries(moray_${name} PUBLIC moray_flags ${ARG_DEPS} PRIVATE ${ARG_PRIVATE})
  else()
    add_library(moray_${name} INTERFACE)
    target_link_libraries(moray_${name} INTERFACE moray_flags ${ARG_DEPS} ${ARG_PRIVATE})
  endif()
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE moray_${name} ${ARG_PRIVATE} ${ARG_TEST_DEPS} GTest::gtest GTest::gtest_main)
    moray_register_tests(${name} ${tests})
  endif()
endfunction()

# The gtest programs of a folder as ctest tests: `name`, `name`_long where a source in ARGN has Long suites, and
# `name`_NeedsX for each suite NeedsX.
function(moray_register_tests name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN})
  set(run ${name}_test --gtest_brief=1)
  add_test(NAME ${name}${moray_test_suffix} COMMAND ${run} --gtest_filter=-Long*:*/Long*:Needs*:*/Needs*)
  set_tests_properties(${name}${moray_test_suffix} PROPERTIES TIMEOUT 2400)
  set(has_long FALSE)
  foreach(file ${ARGN})
    file(STRINGS ${file} special REGEX "^(TYPED_)?TEST(_F|_P)?\\((Long|Needs)")
    foreach(line ${special})
      string(REGEX REPLACE "^[A-Z_]+\\(([A-Za-z0-9]+).*" "\\1" suite ${line})
      if(suite MATCHES "^Long")
        set(has_long TRUE)
      else()
        add_test(NAME ${name}_${suite}${moray_test_suffix} COMMAND ${run} --gtest_filter=${suite}.*:*/${suite}.*)
        set_tests_properties(${name}_${suite}${moray_test_suffix} PROPERTIES
          TIMEOUT 600 SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
      endif()
    endforeach()
  endforeach()
  if(has_long)
    add_test(NAME ${name}_long${moray_test_suffix} COMMAND ${run} --gtest_filter=Long*:*/Long*)
    set_tests_properties(${name}_long${moray_test_suffix} PROPERTIES LABELS long TIMEOUT 7200)
  endif()
endfunction()
