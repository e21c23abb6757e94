/* The verbs of the program: each takes the arguments after its own words and returns an exit
 * status.
 */
#ifndef KIN_TOOLS_VERBS_H
#define KIN_TOOLS_VERBS_H

int kin_verb_train(int count, char **arguments);
int kin_verb_eval_prompts(int count, char **arguments);
int kin_verb_generate(int count, char **arguments);
int kin_verb_data_synth(int count, char **arguments);
int kin_verb_data_sheet(int count, char **arguments);
int kin_verb_report(int count, char **arguments);
int kin_verb_check_ops(int count, char **arguments);
int kin_verb_check_gradients(int count, char **arguments);
int kin_verb_check_resume(int count, char **arguments);
int kin_verb_check_model(int count, char **arguments);
int kin_verb_check_compare(int count, char **arguments);
int kin_verb_check_curve(int count, char **arguments);
int kin_verb_check_case(int count, char **arguments);
int kin_verb_bench_ops(int count, char **arguments);
int kin_verb_bench_model(int count, char **arguments);
int kin_verb_bench_compare(int count, char **arguments);
int kin_verb_bench_overhead(int count, char **arguments);
int kin_verb_plan(int count, char **arguments);
int kin_verb_info(int count, char **arguments);
int kin_verb_convert(int count, char **arguments);
int kin_verb_init(int count, char **arguments);
int kin_verb_devices(int count, char **arguments);
int kin_verb_env(int count, char **arguments);

#endif
