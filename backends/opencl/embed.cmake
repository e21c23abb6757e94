# cmake -DOUT=FILE.c -DFOLDER=backends/opencl -DROOT=REPOSITORY -P embed.cmake
# Writes the texts of the .cl files (and of ops/elementwise_expr.h) as arrays, and the list of the
# kernel lists that the .c files of the folder define.
file(GLOB texts ${FOLDER}/*.cl)
list(APPEND texts ${ROOT}/ops/elementwise_expr.h)
set(arrays "")
set(rows "")
foreach(path ${texts})
  get_filename_component(name ${path} NAME_WE)
  file(READ ${path} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REPLACE "0x0a," "0x0a,\n" bytes "${bytes}")
  string(APPEND arrays "static const unsigned char text_${name}[] = {\n${bytes}};\n")
  string(APPEND rows
         "    {\"${name}\", (const char *)text_${name}, sizeof text_${name}},\n")
endforeach()
file(GLOB sources ${FOLDER}/*.c)
set(families "")
set(pointers "")
foreach(path ${sources})
  file(STRINGS ${path} lines REGEX "^const kin_kernel kin_opencl_[a-z0-9_]+_kernels\\[\\]")
  foreach(line ${lines})
    string(REGEX REPLACE "^const kin_kernel (kin_opencl_[a-z0-9_]+_kernels).*" "\\1" name "${line}")
    string(APPEND families "extern const kin_kernel ${name}[];\n")
    string(APPEND pointers "    ${name},\n")
  endforeach()
endforeach()
set(text "/* Made by backends/opencl/embed.cmake. */
#include \"backends/opencl/opencl.h\"

${arrays}
const kin_opencl_source kin_opencl_sources[] = {
${rows}};
const size_t kin_opencl_source_count = sizeof kin_opencl_sources / sizeof *kin_opencl_sources;

${families}
const kin_kernel *const kin_opencl_families[] = {
${pointers}    NULL,
};
")
file(WRITE ${OUT} "${text}")
