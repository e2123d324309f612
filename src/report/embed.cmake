# Turns files into one C++ source: cmake -DOUTPUT=x.cc "-DASSETS=name=path;name=path" -P embed.cmake
# Each becomes `const std::string_view moray::assets::name`.
set(source "#include \"report/assets.h\"\n\nnamespace moray::assets {\n")
foreach(asset ${ASSETS})
  string(REGEX MATCH "^([a-z_]+)=(.*)$" matched ${asset})
  set(name ${CMAKE_MATCH_1})
  file(READ ${CMAKE_MATCH_2} bytes HEX)
  string(REGEX REPLACE "(..)" "\\\\x\\1" bytes "${bytes}")
  # A row of literals, since a single one may not be arbitrarily long.
  string(REGEX REPLACE "((\\\\x..)(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?(\\\\x..)?)" "\"\\1\"\n" bytes "${bytes}")
  string(APPEND source "namespace {\nconst char ${name}_bytes[] =\n${bytes};\n}\n"
    "const std::string_view ${name}(${name}_bytes, sizeof(${name}_bytes) - 1);\n\n")
endforeach()
string(APPEND source "}\n")
file(WRITE ${OUTPUT} "${source}")
