/* Fingerprints of what a file on disk was made from, to know when it must be made anew. */
#ifndef KIN_TOOLS_FINGERPRINT_H
#define KIN_TOOLS_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/safetensors.h"

enum { KIN_FINGERPRINT_TEXT = 17 };

/* FNV-1a, 64 bits. Start with this, and mix in one thing after the other. */
#define KIN_FINGERPRINT_START UINT64_C(14695981039346656037)
uint64_t kin_fingerprint_bytes(uint64_t hash, const void *data, size_t size);
/* Path, size and time of change of a file, or of every file in a folder (not of folders in it).
 * What is not there changes nothing. */
uint64_t kin_fingerprint_path(uint64_t hash, const char *path);
/* 16 hexadecimal digits. */
void kin_fingerprint_text(uint64_t hash, char out_text[KIN_FINGERPRINT_TEXT]);

/* The metadata of a safetensors file that holds its fingerprint. */
#define KIN_FINGERPRINT_KEY "kinora.made_from"
/* Opens such a file if it is there, whole, and was made from the same things. */
bool kin_fingerprint_open(kin_context *context, const char *path, const char *fingerprint,
                          kin_safetensors **out_file);

#endif
