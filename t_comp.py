import sys, torch, functools
from tests.policy import tiny
from dgpo_cli.policy import packing
from dgpo_cli.policy.policy import Policy
from dgpo_cli.policy.load import add_adapter
from dgpo_cli.policy.settings import LoraAdapter
opt = sys.argv[1]
if opt=="emulate":
    import torch._inductor.config as c; c.emulate_precision_casts=True
base=tiny.build_model("qwen2-untied", hidden_size=128, intermediate_size=256, num_hidden_layers=4).to(torch.bfloat16).requires_grad_(False)
m=add_adapter(base, adapter=LoraAdapter(rank=3,alpha=6.0), seed=3)
p=Policy(m.eval(), tokenizer=tiny.char_tokenizer(), reference=None, has_adapter=True, compute=torch.bfloat16)
p.compile()
rows=tiny.rows_of_pairs(tiny.random_pairs([(3, 50), (3, 90), (4, 20), (6, 70)], seed=1))
with torch.no_grad():
    print(opt, "eq", p.token_columns(rows, temperature=1.0, reference=True).hellinger_sq.max())
with p.training():
    print(opt, "eq train", p.token_columns(rows, temperature=1.0, reference=True).hellinger_sq.max())
