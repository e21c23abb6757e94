/* kinora init: the tokenizer, made of a built-in list of words. The published ones cannot be
 * shipped here; this one has their format, their special ids and far fewer pieces. */
#include "tools/system/init.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/tokenizer.h"
#include "tools/system/model_folder.h"

#include <string.h>

/* Every character of printable ASCII appears, so that no prompt in it has an unknown piece. */
static const char *const sentences[] = {
    "a red circle moving to the left on a dark background",
    "the blue square slides slowly to the right, then up and down",
    "a green triangle gliding upwards over a grey background",
    "a yellow circle, a magenta square and a cyan triangle moving downwards",
    "a soaring drone footage captures the majestic beauty of a coastal cliff",
    "the camera moves slowly through a forest with tall trees and soft morning light",
    "a man is walking along the beach at sunset while waves crash on the shore",
    "a woman wearing a white dress is dancing in the rain on a city street at night",
    "two dogs are running in the snow and playing with a ball",
    "a cat is sitting on a wooden table and looking out of the window",
    "a close up of a flower in the garden with a bee flying around it",
    "an aerial view of a river in the mountains surrounded by green hills",
    "a time lapse of clouds moving over the city with cars on the bridge below",
    "a cup of coffee with steam rising from it, next to an open book",
    "an astronaut riding a horse on the moon, cinematic, highly detailed",
    "a fish swimming under water near a coral reef full of colour and life",
    "snow is falling on the roof of a small house in a quiet village",
    "a train passes through a tunnel and enters a valley with a lake",
    "fireworks explode in the sky over the harbour while people are watching",
    "a child is flying a kite in a field of yellow grass on a sunny day",
    "a robot is cooking food in a modern kitchen, realistic, 4k, high quality",
    "an old ship with white sails in a storm on the open sea",
    "the sun rises above the desert and long shadows move across the sand",
    "a bird with bright feathers lands on a branch and sings",
    "slow motion of a drop of water falling into a pool, making rings",
    "a tiger is walking through the jungle, its eyes looking into the camera",
    "the northern lights are dancing over a frozen lake under the stars",
    "a chef cuts fresh vegetables with a sharp knife on a board",
    "a waterfall in the forest, the water flowing over black rocks",
    "a busy market street with people, bikes, fruit and colourful signs",
    "a young girl with a red hat is smiling and waving her hand",
    "a car is driving fast on a road along the coast, view from above",
    "a beautiful painting of a castle on a hill, in the style of an old master",
    "nothing moves; the picture stays still, and then everything begins to turn around",
    "first person view of a bicycle ride between green fields and blue sky",
    "macro shot of an insect on a leaf with dew, shallow depth of field",
    "low quality, bad anatomy, blurry, cropped, watermark, text, signature, username, error",
    "masterpiece, best quality, ultra detailed, sharp focus, soft lighting, film grain",
    "The Quick Brown Fox Jumps Over The Lazy Dog. HOW VEXINGLY QUICK DAFT ZEBRAS JUMP!",
    "pack my box with five dozen liquor jugs; sphinx of black quartz, judge my vow",
    "0 1 2 3 4 5 6 7 8 9 10 16 24 30 32 64 128 256 480 512 720 1024 1080 1920",
    "! \" # $ % & ' ( ) * + , - . / : ; < = > ? @ [ \\ ] ^ _ ` { | } ~",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z"};

enum { LEAST_PIECES = 160 };

static kin_status write_side_files(kin_context *context, const char *folder, bool mt5) {
    json_t *map = json_pack("{s:s, s:s, s:s}", "eos_token", "</s>", "pad_token", "<pad>",
                            "unk_token", "<unk>");
    json_t *config = json_pack("{s:s, s:s, s:s, s:i, s:s, s:i}", "eos_token", "</s>", "pad_token",
                               "<pad>", "unk_token", "<unk>", "extra_ids", mt5 ? 0 : 100,
                               "tokenizer_class", "T5Tokenizer", "model_max_length", 512);
    if (!map || !config) {
        json_decref(map);
        json_decref(config);
        return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    }
    kin_status status = kin_write_json(context, folder, "special_tokens_map.json", map);
    if (status == KIN_OK) return kin_write_json(context, folder, "tokenizer_config.json", config);
    json_decref(config);
    return status;
}

kin_status kin_init_tokenizer(kin_context *context, const char *folder, int pieces, bool mt5) {
    if (pieces < LEAST_PIECES)
        return kin_fail(context, KIN_INVALID, "text_encoder.vocab_size must be %d at least",
                        LEAST_PIECES);
    kin_status status = kin_make_folders(context, folder);
    char *path = kin_path_join(context, folder, "spiece.model");
    if (status == KIN_OK && !path) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_tokenizer_train(context, sentences, sizeof sentences / sizeof *sentences,
                                     pieces, path);
    kin_free(context, path);
    return status == KIN_OK ? write_side_files(context, folder, mt5) : status;
}
