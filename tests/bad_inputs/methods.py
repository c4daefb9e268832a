"""Methods that cannot train with the requested batch, workers or weights."""

from bad_inputs.case import BadInput, plan

SMALL = "data.image_size=8"  # the last stage of a ResNet then has one position

CASES = [
    BadInput(
        "cc on a batch of one image",
        plan("student.batch_size=1", "method=cc"),
        ("student.batch_size = 1", "'cc'", "--set student.batch_size=2"),
    ),
    BadInput(
        "dist on a batch of one image",
        plan("method=dist", "student.batch_size=1"),
        ("student.batch_size = 1", "'dist'", "--set student.batch_size=2"),
    ),
    BadInput(
        "rkd on a batch of two images",
        plan("method=rkd", "student.batch_size=2"),
        ("student.batch_size = 2", "'rkd'", "--set student.batch_size=3"),
    ),
    BadInput(
        "a compared method on a batch of one image",
        plan("student.batch_size=1", "compare=dkd,pkt"),
        ("student.batch_size = 1", "'pkt'", "--set student.batch_size=2"),
    ),
    BadInput(
        "batch norm of the student on one image",
        plan(SMALL, "student.batch_size=1"),
        ("student.batch_size = 1", "batch norm", "--set student.batch_size=2"),
    ),
    BadInput(
        "batch norm of the teacher on one image",
        plan(SMALL, "teacher.batch_size=1"),
        ("teacher.batch_size = 1", "batch norm", "--set teacher.batch_size=2"),
    ),
    BadInput(
        "batch norm of each of two workers on one image",
        plan(SMALL, "student.batch_size=2", "workers.count=2"),
        ("student.batch_size = 2", "1 image per worker", "--set student.batch_size=4"),
    ),
    BadInput(
        "batch norm of a FitNets regressor on one image",
        plan(
            SMALL,
            "student.model=vit6",
            "student.model.patch=2",
            "student.batch_size=1",
            "method=fitnets",
            "method.stages=3",
        ),
        ("student.batch_size = 1", "'fitnets'", "--set student.batch_size=2"),
    ),
    BadInput("a negative weight of labels", plan("method=dist", "method.ce_weight=-1"), ("ce_weight = -1.0",)),
    BadInput("an infinite weight", plan("method=logit_standardization", "method.weight=inf"), ("weight = inf",)),
    BadInput(
        "a stage that one of the models lacks",
        plan("method=sp", "method.stages=4"),
        ("stages = (4,)", "has only 4 stages"),
    ),
]
