// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Draw, DrawBy } from "../../src/interfaces/Types.sol";
import { Draws } from "../../src/libraries/Draws.sol";
import { Test } from "../base/Test.sol";
import { Urn } from "../base/Urn.sol";

/// @notice Follows Draws.tree.
contract DrawsTest is Test {
    string private constant VECTORS = "tests/vectors/draws.json";
    uint96 private constant STAKE = 100 ether;

    function _urn(uint16 perRound, DrawBy by) private returns (Urn) {
        return new Urn(Draw(perRound, by), STAKE);
    }

    function _at(uint256 i, string memory key) private pure returns (string memory) {
        return string.concat(".cases[", vm.toString(i), "]", key);
    }

    // --- vectors -----------------------------------------------------------------------------------------------

    function test_draw__vectors__giveTheirWorkers() external {
        string memory json = vm.readFile(VECTORS);
        uint256 i;
        for (; vm.keyExistsJson(json, _at(i, "")); ++i) {
            uint256[] memory drawn = _vectorsUrn(json, i)
                .draw(
                    vm.parseJsonBytes32(json, _at(i, ".seed")),
                    vm.parseJsonUint(json, _at(i, ".task_id")),
                    uint16(vm.parseJsonUint(json, _at(i, ".round")))
                );
            uint256[] memory expected = vm.parseJsonUintArray(json, _at(i, ".drawn"));
            vm.assertEq(abi.encode(drawn), abi.encode(expected));
        }
        vm.assertGe(i, 20);
    }

    function _vectorsUrn(string memory json, uint256 i) private returns (Urn urn) {
        uint256 perRound = vm.parseJsonUint(json, _at(i, ".clients_per_round"));
        uint256 by = vm.parseJsonUint(json, _at(i, ".by"));
        urn = new Urn(Draw(uint16(perRound), DrawBy(by)), uint96(vm.parseJsonUint(json, _at(i, ".worker_stake"))));
        uint256[] memory stakes = vm.parseJsonUintArray(json, _at(i, ".stakes"));
        uint256[] memory reputations = vm.parseJsonUintArray(json, _at(i, ".reputations"));
        uint256[] memory waiting = vm.parseJsonUintArray(json, _at(i, ".waiting"));
        for (uint256 w; w < stakes.length; ++w) {
            urn.add(uint96(stakes[w]), uint16(reputations[w]), waiting[w] == 1);
        }
    }

    // --- who can be drawn --------------------------------------------------------------------------------------

    function test_draw__poolNotLarger__takesEverybodyInTheOrderOfTheList() external {
        for (uint16 wanted = 5; wanted <= 7; ++wanted) {
            Urn urn = _urn(wanted, DrawBy.Reputation);
            for (uint256 i; i < 5; ++i) {
                urn.add(STAKE, 0, true);
            }
            uint256[] memory drawn = urn.draw("seed", 1, 1);
            vm.assertEq(drawn.length, 5);
            for (uint256 i; i < 5; ++i) {
                vm.assertEq(drawn[i], (drawn[0] + i) % 5);
                vm.assertEq(uint256(urn.activeFrom(i)), 1);
            }
        }
    }

    function test_draw__poolOfOne__takesIt() external {
        Urn urn = _urn(3, DrawBy.Uniform);
        urn.add(STAKE, 0, false);
        urn.add(STAKE, 0, true);
        vm.assertEq(abi.encode(urn.draw("seed", 1, 9)), abi.encode(_list(1)));
        vm.assertEq(uint256(urn.activeFrom(1)), 9);
    }

    function test_draw__thoseWhoLeftOrWereDrawn__areNotDrawn() external {
        Urn urn = _urn(2, DrawBy.Uniform);
        for (uint256 i; i < 6; ++i) {
            urn.add(STAKE, 0, i % 2 == 0);
        }
        uint256[] memory drawn = urn.draw("seed", 1, 1);
        vm.assertEq(drawn.length, 2);
        vm.assertTrue(drawn[0] != drawn[1] && drawn[0] % 2 == 0 && drawn[1] % 2 == 0);
    }

    /// @dev By a chance that no trial meets: nobody is accepted, and all are taken in order.
    function test_draw__noTrialAccepts__takesInTheOrderOfTheListFromARandomStart() external {
        bool[10] memory first;
        for (uint256 seed; seed < 60; ++seed) {
            Urn urn = _urn(3, DrawBy.Stake);
            for (uint256 i; i < 10; ++i) {
                urn.add(0, 0, true);
            }
            uint256[] memory drawn = urn.draw(bytes32(seed), 1, 1);
            vm.assertTrue(drawn[1] == (drawn[0] + 1) % 10 && drawn[2] == (drawn[0] + 2) % 10);
            first[drawn[0]] = true;
        }
        for (uint256 i; i < 10; ++i) {
            vm.assertTrue(first[i], "a start that never comes");
        }
    }

    function test_maxTrials__isEnoughForAFewAndBoundedForMany() external pure {
        vm.assertEq(Draws.maxTrials(1), 67);
        vm.assertEq(Draws.maxTrials(1024), 3136);
    }

    // --- how often ---------------------------------------------------------------------------------------------

    uint256 private constant ROUNDS = 4000;

    /// @dev One of four a round; how often each was drawn.
    function _play(Urn urn) private returns (uint256[] memory counts) {
        counts = new uint256[](4);
        for (uint16 round = 1; round <= ROUNDS; ++round) {
            uint256[] memory drawn = urn.draw("seed", 1, round);
            ++counts[drawn[0]];
            urn.putBack(drawn);
        }
    }

    /// @dev Within 20% of a share of all rounds: four standard deviations, or more.
    function _assertShare(uint256 count, uint256 part, uint256 whole) private pure {
        uint256 expected = ROUNDS * part / whole;
        vm.assertGe(count * 100, expected * 80, "too seldom");
        vm.assertLe(count * 100, expected * 120, "too often");
    }

    function test_uniform__manyRounds__everybodyAsOftenWhateverTheStake() external {
        Urn urn = _urn(1, DrawBy.Uniform);
        for (uint96 i; i < 4; ++i) {
            urn.add((i + 1) * STAKE, uint16(i), true);
        }
        uint256[] memory counts = _play(urn);
        for (uint256 i; i < 4; ++i) {
            _assertShare(counts[i], 1, 4);
        }
    }

    function test_stake__manyRounds__followsTheStakesUpToTheCap() external {
        Urn urn = _urn(1, DrawBy.Stake);
        urn.add(STAKE, 0, true);
        urn.add(3 * STAKE / 2, 0, true);
        urn.add(4 * STAKE, 0, true);
        urn.add(1000 * STAKE, 0, true);
        uint256[] memory counts = _play(urn);
        // 1, 1.5, 4 and 4 of 10.5.
        _assertShare(counts[0], 2, 21);
        _assertShare(counts[1], 3, 21);
        _assertShare(counts[2], 8, 21);
        _assertShare(counts[3], 8, 21);
    }

    function test_reputation__manyRounds__followsItDownToTheFloor() external {
        Urn urn = _urn(1, DrawBy.Reputation);
        urn.add(STAKE, 0, true);
        urn.add(STAKE, 1000, true);
        urn.add(9 * STAKE, 2000, true);
        urn.add(STAKE, 6000, true);
        uint256[] memory counts = _play(urn);
        _assertShare(counts[0], 1, 10);
        _assertShare(counts[1], 1, 10);
        _assertShare(counts[2], 2, 10);
        _assertShare(counts[3], 6, 10);
    }

    function _list(uint256 value) private pure returns (uint256[] memory list) {
        list = new uint256[](1);
        list[0] = value;
    }
}
