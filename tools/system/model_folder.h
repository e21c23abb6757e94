/* Folders of models in diffusers' layout: writing their configuration files. */
#ifndef KIN_TOOLS_MODEL_FOLDER_H
#define KIN_TOOLS_MODEL_FOLDER_H

#include "models/sd_vae.h"
#include "models/t5.h"

#include <jansson.h>

/* Each writes FOLDER/config.json (the folder is made) with the original's key names. */
kin_status kin_write_vae_config(kin_context *context, const char *folder,
                                const kin_sd_vae_config *config);
kin_status kin_write_t5_config(kin_context *context, const char *folder,
                               const kin_t5_config *config);
/* Writes any object atomically, and frees it. */
kin_status kin_write_json(kin_context *context, const char *folder, const char *name,
                          json_t *object);
/* Copies a file, atomically. */
kin_status kin_copy_file(kin_context *context, const char *source, const char *target);

#endif
