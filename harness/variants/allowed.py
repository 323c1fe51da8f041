"""The names that a variant's file may use: an allow-list of modules and their names, and the reasons against the rest.

An allow-list, because the paths from torch to files, processes and the interpreter (`torch.os`,
`torch.PyTorchFileReader`, `functools.update_wrapper`) are too many to list. Add a torch function that is missing here
if it only computes.
"""

from __future__ import annotations

import builtins


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Module -> the names that a variant may use from it. torch's are those that compute, of torch 2.13.
MODULES = {
    module: _words(names)
    for module, names in {
        "__future__": "annotations",
        "abc": "ABC abstractmethod",
        "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
        "collections.abc": """
            Callable Collection Hashable Iterable Iterator Mapping MutableMapping MutableSequence Sequence Set Sized
        """,
        "dataclasses": "KW_ONLY asdict astuple dataclass field fields is_dataclass replace",
        "functools": "cache lru_cache partial reduce",
        "itertools": """
            accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse
            groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest
        """,
        "math": """
            acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2
            expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp
            lgamma log log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder sin sinh sqrt tan tanh tau
            trunc ulp
        """,
        "operator": "add and_ eq floordiv ge getitem gt itemgetter le lt matmul mod mul ne neg or_ pow sub truediv xor",
        "typing": """
            Annotated Any Callable ClassVar Final Generic Iterable Iterator Literal Mapping NamedTuple Optional Protocol
            Self Sequence TYPE_CHECKING TypeAlias TypeVar Union cast overload
        """,
        "torch": """
            Size Tensor _grouped_mm _int_mm _scaled_mm abs absolute acos acosh adaptive_avg_pool1d adaptive_max_pool1d
            add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator all allclose alpha_dropout amax
            amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort
            argwhere as_strided as_strided_scatter as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d
            atleast_3d autocast avg_pool1d baddbmm bartlett_window batch_norm bernoulli bfloat16 bilinear
            binary_cross_entropy_with_logits bincount binomial bitwise_and bitwise_left_shift bitwise_not bitwise_or
            bitwise_right_shift bitwise_xor blackman_window block_diag bmm bool broadcast_shapes broadcast_tensors
            broadcast_to bucketize can_cast cartesian_prod cat cdist cdouble ceil celu cfloat chain_matmul chalf
            channel_shuffle channels_last channels_last_3d cholesky cholesky_inverse cholesky_solve chunk clamp
            clamp_max clamp_min clip clone column_stack combinations complex complex128 complex32 complex64 concat
            concatenate conj conj_physical constant_pad_nd contiguous_format conv1d conv2d conv3d conv_tbc
            conv_transpose1d conv_transpose2d conv_transpose3d copysign corrcoef cos cosh cosine_embedding_loss
            cosine_similarity count_nonzero cov cross ctc_loss cummax cummin cumprod cumsum cumulative_trapezoid deg2rad
            det detach device diag diag_embed diagflat diagonal diagonal_scatter diff digamma dist div divide dot double
            dropout dsplit dstack dtype e einsum embedding embedding_bag empty empty_like empty_permuted empty_strided
            eq equal erf erfc erfinv exp exp2 expm1 eye feature_alpha_dropout feature_dropout fill finfo fix flatten
            flip fliplr flipud float float16 float32 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
            float_power floor floor_divide fmax fmin fmod frac frexp frobenius_norm full full_like gather gcd ge geqrf
            ger gradient greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gt half
            hamming_window hann_window hardshrink heaviside hinge_embedding_loss histc histogram histogramdd hsplit
            hstack hypot i0 igamma igammac iinfo imag index_add index_copy index_fill index_put index_reduce
            index_select inf inner instance_norm int int16 int32 int64 int8 inverse is_complex is_conj is_floating_point
            is_neg is_nonzero is_same_size is_signed is_tensor isclose isfinite isin isinf isnan isneginf isposinf
            isreal istft kaiser_window kl_div kron kthvalue layer_norm lcm ldexp le lerp less less_equal lgamma linspace
            lobpcg log log10 log1p log2 log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not
            logical_or logical_xor logit logspace logsumexp long lt lu lu_solve lu_unpack margin_ranking_loss
            masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max max_pool1d
            max_pool1d_with_indices max_pool2d max_pool3d maximum mean median memory_format meshgrid min minimum mm mode
            moveaxis movedim msort mul multinomial multiply mv mvlgamma nan nan_to_num nanmean nanmedian nanquantile
            nansum narrow ne neg negative newaxis nextafter no_grad nonzero nonzero_static norm normal not_equal
            nuclear_norm numel ones ones_like orgqr ormqr outer pairwise_distance pca_lowrank pdist permute pi pinverse
            pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar polygamma positive pow prelu preserve_format
            prod promote_types put qr quantile rad2deg rand rand_like randint randint_like randn randn_like randperm
            ravel real reciprocal relu remainder renorm repeat_interleave reshape resolve_conj resolve_neg result_type
            rms_norm roll rot90 round row_stack rrelu rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce
            searchsorted segment_reduce select select_scatter selu sgn short sigmoid sign signbit sin sinc sinh
            slice_inverse slice_scatter slogdet softmax sort split split_with_sizes sqrt square squeeze stack std
            std_mean stft strided sub subtract sum svd svd_lowrank swapaxes swapdims t take take_along_dim tan tanh
            tensor tensor_split tensordot threshold tile topk trace transpose trapezoid trapz triangular_solve tril
            tril_indices triplet_margin_loss triu triu_indices true_divide trunc uint16 uint32 uint64 uint8 unbind
            unflatten unique unique_consecutive unravel_index unsqueeze vander var var_mean vdot view_as_complex
            view_as_real vmap vsplit vstack where xlogy zeros zeros_like
        """,
        "torch.autograd": "Function",
        "torch.autograd.function": "once_differentiable",
        "torch.fft": """
            fft fft2 fftfreq fftn fftshift hfft hfft2 hfftn ifft ifft2 ifftn ifftshift ihfft ihfft2 ihfftn irfft irfft2
            irfftn rfft rfft2 rfftfreq rfftn
        """,
        "torch.linalg": """
            LinAlgError cholesky cholesky_ex cond cross det diagonal eig eigh eigvals eigvalsh householder_product inv
            inv_ex ldl_factor ldl_factor_ex ldl_solve lstsq lu lu_factor lu_factor_ex lu_solve matmul matrix_exp
            matrix_norm matrix_power matrix_rank multi_dot norm pinv qr slogdet solve solve_ex solve_triangular svd
            svdvals tensorinv tensorsolve vander vecdot vector_norm
        """,
        "torch.nn": """
            AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss AdaptiveMaxPool1d
            AdaptiveMaxPool2d AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BCELoss BCEWithLogitsLoss
            BatchNorm1d BatchNorm2d BatchNorm3d Bilinear Buffer CELU CTCLoss ChannelShuffle CircularPad1d CircularPad2d
            CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
            ConvTranspose3d CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss Dropout Dropout1d Dropout2d Dropout3d
            ELU Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold FractionalMaxPool2d FractionalMaxPool3d GELU GLU
            GRU GRUCell GaussianNLLLoss GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss
            Identity InstanceNorm1d InstanceNorm2d InstanceNorm3d KLDivLoss L1Loss LPPool1d LPPool2d LPPool3d LSTM
            LSTMCell LayerNorm LeakyReLU Linear LinearCrossEntropyLoss LinearCrossEntropyOptions LocalResponseNorm
            LogSigmoid LogSoftmax MSELoss MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d
            MaxUnpool3d Mish Module ModuleDict ModuleList MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss
            MultiheadAttention NLLLoss PReLU PairwiseDistance Parameter ParameterList PixelShuffle
            PixelUnshuffle PoissonNLLLoss RMSNorm RNN RNNBase RNNCell RNNCellBase RReLU ReLU ReLU6 ReflectionPad1d
            ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU Sequential SiLU
            Sigmoid SmoothL1Loss SoftMarginLoss Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink
            Threshold Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer
            TripletMarginLoss TripletMarginWithDistanceLoss Unflatten Unfold Upsample UpsamplingBilinear2d
            UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
        """,
        "torch.nn.attention": "SDPBackend sdpa_kernel",
        "torch.nn.attention.flex_attention": """
            BlockMask and_masks create_block_mask create_mask flex_attention or_masks
        """,
        "torch.nn.functional": """
            adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
            adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d
            adaptive_max_pool3d_with_indices affine_grid alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm
            bilinear binary_cross_entropy binary_cross_entropy_with_logits celu channel_shuffle conv1d conv2d conv3d
            conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d cosine_embedding_loss cosine_similarity
            cross_entropy ctc_loss dropout dropout1d dropout2d dropout3d elu embedding embedding_bag
            feature_alpha_dropout fold fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d
            fractional_max_pool3d_with_indices gaussian_nll_loss gelu glu grid_sample group_norm grouped_mm
            gumbel_softmax hardshrink hardsigmoid hardswish hardtanh hinge_embedding_loss huber_loss instance_norm
            interpolate kl_div l1_loss layer_norm leaky_relu linear linear_cross_entropy local_response_norm log_softmax
            logsigmoid lp_pool1d lp_pool2d lp_pool3d margin_ranking_loss max_pool1d max_pool1d_with_indices max_pool2d
            max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d mish
            mse_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize one_hot pad
            pairwise_distance pdist pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu relu6 rms_norm rrelu
            scaled_dot_product_attention scaled_grouped_mm scaled_mm selu sigmoid silu smooth_l1_loss soft_margin_loss
            softmax softmin softplus softshrink softsign tanh tanhshrink threshold triplet_margin_loss
            triplet_margin_with_distance_loss unfold
        """,
        "torch.nn.init": """
            calculate_gain constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_
            trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_
        """,
        "torch.nn.utils": """
            clip_grad_norm_ clip_grad_value_ clip_grads_with_norm_ get_total_norm parameters_to_vector
            vector_to_parameters
        """,
        "torch.optim": """
            ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam Optimizer RAdam RMSprop Rprop SGD
            SparseAdam
        """,
        "torch.special": """
            airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 chebyshev_polynomial_t chebyshev_polynomial_u
            chebyshev_polynomial_v chebyshev_polynomial_w digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc
            gammaincc gammaln hermite_polynomial_h hermite_polynomial_he i0 i0e i1 i1e laguerre_polynomial_l
            legendre_polynomial_p log1p log_ndtr log_softmax logit logsumexp modified_bessel_i0 modified_bessel_i1
            modified_bessel_k0 modified_bessel_k1 multigammaln ndtr ndtri polygamma psi round scaled_modified_bessel_k0
            scaled_modified_bessel_k1 shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u
            shifted_chebyshev_polynomial_v shifted_chebyshev_polynomial_w sinc softmax spherical_bessel_j0 xlog1py xlogy
            zeta
        """,
        "torch.utils.checkpoint": "checkpoint checkpoint_sequential",
    }.items()
}

# Modules of the base, which every run's code digest covers; any other file would be in no digest and cost nothing.
# Their public names are free, except torch under another name.
BASE_MODULES = frozenset({"models.gpt", "models.kernels", "models.moe", "models.optim", "models.parts"})
NOT_OF_THE_BASE = frozenset({"torch", "nn", "F"})

# Built-ins that only compute. All others are refused, including those of a later Python.
BUILTINS = _words(
    """
    ArithmeticError AssertionError AttributeError Ellipsis Exception False IndexError KeyError LookupError None
    NotImplemented NotImplementedError OverflowError RuntimeError StopIteration True TypeError ValueError
    ZeroDivisionError abs all any bin bool bytes callable chr classmethod complex dict divmod enumerate filter float
    format frozenset hasattr hash hex id int isinstance issubclass iter len list map max min next object oct ord pow
    property range repr reversed round set slice sorted staticmethod str sum super tuple zip
    """
)

# The last six come from the `site` module, where it runs.
FORBIDDEN_BUILTINS = frozenset(dir(builtins)) - BUILTINS | _words("copyright credits exit help license quit")

# Attributes of any value that reach beyond the model, by the reason for their refusal.
OWNED = {
    name: reason
    for reason, names in {
        "seeds and random streams belong to the harness": """
                Generator default_generator get_rng_state initial_seed manual_seed seed set_rng_state
            """,
        "the harness runs the backward pass, once a step": "backward enable_grad inference_mode set_grad_enabled",
        "the harness switches between training and evaluation": "eval train",
        "the weights that are scored are those that were trained": """
                get_extra_state load_state_dict set_extra_state state_dict
            """,
        "every parameter is trained, by the optimizer": "requires_grad_ zero_grad",
        "a tensor's memory is not to be shared or written to a file": """
                ctypes data_ptr from_file module_load numpy pin_memory set_ share_memory share_memory_ storage tofile
                typed_storage untyped_storage
            """,
        "a variant computes with plain tensors": "as_subclass",
        "strings are formatted with f-strings": "format format_map",
        "the harness decides what is compiled": "compile",
        "a variant only builds a model": """
                ag_code ag_frame builtins co_code co_consts cr_code cr_frame distributed f_back f_builtins f_code
                f_globals f_locals gc gi_code gi_frame gi_yieldfrom hub importlib inspect io mro multiprocessing obj os
                pathlib pickle shutil socket subprocess sys tb_frame tb_next tempfile threading urllib with_traceback
            """,
    }.items()
    for name in _words(names)
}

# Methods that the harness calls on a model or an optimizer; a variant must not define or replace them. From torch's own
# classes; a test compares.
RELIED_ON = _words(
    """
    T_destination add_module add_param_group apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval float get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters profile_hook_step register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook
    register_step_post_hook register_step_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict
    to to_empty train training type xpu zero_grad
    """
)

# A class may define these, but no statement may replace them on an object.
DEFINED_ONCE = frozenset({"backward", "forward", "reset_parameters", "step"})
# Special methods that a class may define.
DUNDERS = frozenset({"__getitem__", "__init__", "__iter__", "__len__", "__post_init__", "__repr__"})

# Torch's private names on modules, optimizers and autograd contexts; a variant must not use them.
INTERNALS = _words(
    """
    _accelerator_graph_capture_health_check _apply _autograd_function_id _backward_hooks _backward_pre_hooks
    _buffers _call_impl _compiled_autograd_backward_state _compiled_autograd_key _compiled_call_impl
    _cuda_graph_capture_health_check _forward_cls _forward_hooks _forward_hooks_always_called
    _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs _get_backward_hooks
    _get_backward_pre_hooks _get_compiled_autograd_symints _get_name _get_user_fn
    _group_tensors_by_device_and_dtype _input_metadata _is_full_backward_hook _is_pure_view
    _load_from_state_dict _load_state_dict_post_hooks _load_state_dict_pre_hooks _materialize_non_diff_grads
    _maybe_warn_non_full_backward_hook _modules _named_members _non_persistent_buffers_set
    _optimizer_load_state_dict_post_hooks _optimizer_load_state_dict_pre_hooks _optimizer_state_dict_post_hooks
    _optimizer_state_dict_pre_hooks _optimizer_step_code _optimizer_step_post_hooks _optimizer_step_pre_hooks
    _parameters _patch_step_function _process_value_according_to_param_policy _raw_saved_tensors _register_hook
    _register_hook_dict _register_load_state_dict_pre_hook _register_state_dict_hook
    _replicate_for_data_parallel _save_to_state_dict _sequence_nr _set_sequence_nr _slow_forward
    _state_dict_hooks _state_dict_pre_hooks _version _warned_capturable_if_run_uncaptured _wrapped_call_impl
    _zero_grad_profile_name
    """
)
