"""The paper's claims, each beside its control: trainings, measurements, and the page of them."""
