"""What a task costs where it is done: the figures from which a report reckons money. Nothing of them is trained on."""

from typing import Annotated

from pydantic import Field

from yoriai.config.types import Table

Money = Annotated[float, Field(ge=0, le=1e12)]


class KpiSection(Table):
    """What the work costs today, for the report's figures in money; it bears on nothing else. 0 leaves one out."""

    tasks_per_month: float = Field(
        default=0.0, ge=0, le=1e12, description="Records a month that the model would answer, over all sites."
    )
    task_seconds: float = Field(
        default=0.0, ge=0, le=1e7, description="Seconds that a person takes to do one such task by hand."
    )
    error_cost: Money = Field(
        default=0.0,
        description="Money that one wrong answer costs, beside the time in task_seconds: scrap, a second trip.",
    )
    wage: Money = Field(default=0.0, description="Money that an hour of that person costs, with all charges.")
    machine_hour_price: Money = Field(default=0.0, description="Price of an hour of the machine that trains.")
    currency: str = Field(
        default="EUR", min_length=1, max_length=8, description="Name of the money in all these figures."
    )

    @property
    def is_given(self) -> bool:
        """Whether there is enough to reckon with: tasks, and what one costs."""
        return self.tasks_per_month > 0 and (self.error_cost > 0 or self.task_seconds > 0)
