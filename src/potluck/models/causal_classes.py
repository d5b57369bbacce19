"""What transformers' causal language models let us do, by the `model_type` of their config.json.

`make docs` generates this file, because importing transformers takes seconds and half a gigabyte, and a coordinator
needs neither it nor PyTorch. A test compares it with the installed library.
"""

from __future__ import annotations

from typing import Any


def _by_type(pairs: str) -> dict[str, str]:
    """The classes by their model types."""
    return dict(pair.split(":") for pair in pairs.split())


SPLITTABLE = _by_type(
    """
    afmoe:AfmoeForCausalLM apertus:ApertusForCausalLM arcee:ArceeForCausalLM aria_text:AriaTextForCausalLM
    axk1:AXK1ForCausalLM beam:BeamForCausalLM bitnet:BitNetForCausalLM cohere:CohereForCausalLM
    cohere2:Cohere2ForCausalLM cohere2_moe:Cohere2MoeForCausalLM cohere_compass_text:CohereCompassForCausalLM
    ctrl:CTRLLMHeadModel cwm:CwmForCausalLM dbrx:DbrxForCausalLM deepseek_v2:DeepseekV2ForCausalLM
    deepseek_v3:DeepseekV3ForCausalLM dots1:Dots1ForCausalLM dots3_note:Dots3NoteForCausalLM
    dots3_note_text:Dots3NoteForCausalLM emu3:Emu3ForCausalLM ernie4_5:Ernie4_5ForCausalLM
    ernie4_5_moe:Ernie4_5_MoeForCausalLM exaone4:Exaone4ForCausalLM exaone_moe:ExaoneMoeForCausalLM
    flex_olmo:FlexOlmoForCausalLM flint:FlintForCausalLM fuyu:FuyuForCausalLM gemma:GemmaForCausalLM
    gemma2:Gemma2ForCausalLM gemma3:Gemma3ForConditionalGeneration gemma3_text:Gemma3ForCausalLM
    gemma4:Gemma4ForConditionalGeneration gemma4_text:Gemma4ForCausalLM
    gemma4_unified:Gemma4UnifiedForConditionalGeneration gemma4_unified_text:Gemma4UnifiedForCausalLM glm:GlmForCausalLM
    glm4:Glm4ForCausalLM glm4_moe:Glm4MoeForCausalLM glm4_moe_lite:Glm4MoeLiteForCausalLM
    got_ocr2:GotOcr2ForConditionalGeneration gpt-sw3:GPT2LMHeadModel gpt2:GPT2LMHeadModel
    gpt_bigcode:GPTBigCodeForCausalLM gpt_neox:GPTNeoXForCausalLM gpt_oss:GptOssForCausalLM granite:GraniteForCausalLM
    granite_swa:GraniteSWAForCausalLM granitemoe:GraniteMoeForCausalLM granitemoe_swa:GraniteMoeSWAForCausalLM
    granitemoeshared:GraniteMoeSharedForCausalLM helium:HeliumForCausalLM hunyuan_v1_dense:HunYuanDenseV1ForCausalLM
    hunyuan_v1_moe:HunYuanMoEV1ForCausalLM hy_v3:HYV3ForCausalLM hyperclovax:HyperCLOVAXForCausalLM
    internlm3:LlamaForCausalLM iquestcoder:LlamaForCausalLM jais2:Jais2ForCausalLM jetmoe:JetMoeForCausalLM
    kolibri1:Kolibri1ForCausalLM laguna:LagunaForCausalLM llama:LlamaForCausalLM llama4:Llama4ForCausalLM
    llama4_text:Llama4ForCausalLM longcat_flash:LongcatFlashForCausalLM mellum:MellumForCausalLM
    mimo_v2_flash:MiMoV2FlashForCausalLM minicpm3:MiniCPM3ForCausalLM minimax_m2:MiniMaxM2ForCausalLM
    minimax_m3_vl_text:MiniMaxM3VLForCausalLM ministral:MinistralForCausalLM ministral3:Ministral3ForCausalLM
    mistral:MistralForCausalLM mixtral:MixtralForCausalLM mllama:MllamaForCausalLM moshi:MoshiForCausalLM
    moss_transcribe_diarize:MossTranscribeDiarizeForConditionalGeneration nanochat:NanoChatForCausalLM
    olmo:OlmoForCausalLM olmo2:Olmo2ForCausalLM olmo3:Olmo3ForCausalLM olmoe:OlmoeForCausalLM opt:OPTForCausalLM
    persimmon:PersimmonForCausalLM phi:PhiForCausalLM phi3:Phi3ForCausalLM phi4_multimodal:Phi4MultimodalForCausalLM
    phimoe:PhimoeForCausalLM qwen2:Qwen2ForCausalLM qwen2_moe:Qwen2MoeForCausalLM qwen3:Qwen3ForCausalLM
    qwen3_moe:Qwen3MoeForCausalLM seed_oss:SeedOssForCausalLM smollm3:SmolLM3ForCausalLM solar_open:SolarOpenForCausalLM
    starcoder2:Starcoder2ForCausalLM vaultgemma:VaultGemmaForCausalLM youtu:YoutuForCausalLM
    """
)
"""Their layers use the attention interface, and keep nothing but keys and values."""

OPAQUE = _by_type(
    """
    bart:BartForCausalLM big_bird:BigBirdForCausalLM bigbird_pegasus:BigBirdPegasusForCausalLM biogpt:BioGptForCausalLM
    blenderbot:BlenderbotForCausalLM blenderbot-small:BlenderbotSmallForCausalLM bloom:BloomForCausalLM
    blt:BltForCausalLM codegen:CodeGenForCausalLM cpmant:CpmAntForCausalLM falcon:FalconForCausalLM git:GitForCausalLM
    gpt_neo:GPTNeoForCausalLM gpt_neox_japanese:GPTNeoXJapaneseForCausalLM gptj:GPTJForCausalLM marian:MarianForCausalLM
    mbart:MBartForCausalLM megatron-bert:MegatronBertForCausalLM mpt:MptForCausalLM musicgen:MusicgenForCausalLM
    musicgen_melody:MusicgenMelodyForCausalLM mvp:MvpForCausalLM openai-gpt:OpenAIGPTLMHeadModel
    pegasus:PegasusForCausalLM plbart:PLBartForCausalLM prophetnet:ProphetNetForCausalLM
    reformer:ReformerModelWithLMHead rembert:RemBertForCausalLM roformer:RoFormerForCausalLM
    stablelm:StableLmForCausalLM trocr:TrOCRForCausalLM whisper:WhisperForCausalLM xglm:XGLMForCausalLM
    xlm:XLMWithLMHeadModel xlnet:XLNetLMHeadModel
    """
)
"""Their layers do not use the attention interface, so nobody can give them a session's cache."""

WHOLE = _by_type(
    """
    axk2:AXK2ForCausalLM bert:BertLMHeadModel bert-generation:BertGenerationDecoder camembert:CamembertForCausalLM
    data2vec-text:Data2VecTextForCausalLM deepseek_v32:DeepseekV32ForCausalLM diffllama:DiffLlamaForCausalLM
    doge:DogeForCausalLM electra:ElectraForCausalLM ernie:ErnieForCausalLM gemma3n:Gemma3nForConditionalGeneration
    gemma3n_text:Gemma3nForCausalLM gemma4_assistant:Gemma4AssistantForCausalLM
    gemma4_unified_assistant:Gemma4UnifiedAssistantForCausalLM glm_moe_dsa:GlmMoeDsaForCausalLM
    hrm_text:HrmTextForCausalLM hy_v4:HYV4ForCausalLM modernbert-decoder:ModernBertDecoderForCausalLM
    nemotron:NemotronForCausalLM roberta:RobertaForCausalLM roberta-prelayernorm:RobertaPreLayerNormForCausalLM
    roc_bert:RoCBertForCausalLM xlm-roberta:XLMRobertaForCausalLM xlm-roberta-xl:XLMRobertaXLForCausalLM
    xmod:XmodForCausalLM
    """
)
"""Trials showed that they fail, or compute something else, when only some of their layers are there."""

STATEFUL = _by_type(
    """
    bailing_hybrid:BailingHybridForCausalLM bamba:BambaForCausalLM deepseek_v4:DeepseekV4ForCausalLM
    falcon_h1:FalconH1ForCausalLM falcon_mamba:FalconMambaForCausalLM granitemoehybrid:GraniteMoeHybridForCausalLM
    inkling2_text:Inkling2ForCausalLM inkling_text:InklingForCausalLM jamba:JambaForCausalLM
    kimi_linear:KimiLinearForCausalLM lfm2:Lfm2ForCausalLM lfm2_moe:Lfm2MoeForCausalLM lfm3:Lfm3ForCausalLM
    mamba:MambaForCausalLM mamba2:Mamba2ForCausalLM minimax:MiniMaxForCausalLM nemotron_h:NemotronHForCausalLM
    olmo_hybrid:OlmoHybridForCausalLM qwen3_5:Qwen3_5ForCausalLM qwen3_5_moe:Qwen3_5MoeForCausalLM
    qwen3_5_moe_text:Qwen3_5MoeForCausalLM qwen3_5_text:Qwen3_5ForCausalLM qwen3_next:Qwen3NextForCausalLM
    qwen4_exp:Qwen4ExpForCausalLM qwen4_exp_text:Qwen4ExpForCausalLM recurrent_gemma:RecurrentGemmaForCausalLM
    rwkv:RwkvForCausalLM xlstm:xLSTMForCausalLM zamba:ZambaForCausalLM zamba2:Zamba2ForCausalLM zaya:ZayaForCausalLM
    """
)
"""Some of their layers keep other state than keys and values."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "hidden_size": 2304,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "intermediate_size": 9216,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-06,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    "llama": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "intermediate_size": 11008,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
    },
    "llama4_text": {
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 202048,
        "max_position_embeddings": 131072,
        "intermediate_size": 8192,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
    },
    "mistral": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
        "intermediate_size": 14336,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "intermediate_size": 22016,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
    },
    "qwen3": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "intermediate_size": 22016,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
    },
}
"""What is meant where the text part of a config.json leaves it out."""
