"""The paper's claims on one machine, each beside its control: trainings, measurements, and the page of them."""
